"""What a trained network says about single images, and where it looks."""

import argparse
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cifar_lit.analysis import cam_methods as cams
from cifar_lit.analysis.gradcam import activation_maps, default_layer, upscale
from cifar_lit.data.decode import UnreadableError, read
from cifar_lit.data.image_folder import SUFFIXES
from cifar_lit.models.resnet import Layer, ResNet18
from cifar_lit.report import figures
from cifar_lit.training import checkpoints
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.files import atomic_write_text
from cifar_lit.utils.folders import new_folder

DRAWN = 320  # pixels of a image in the figures
SHEET = 100  # images on the contact sheet


@dataclass(frozen=True)
class Trained:
    """A network with what it was trained for.

    Attributes:
        net: In evaluation mode, in float32, without gradients.
        classes: Its class names.
        image_size: Height and width in pixels of the images that it was trained on.
    """

    net: ResNet18
    classes: tuple[str, ...]
    image_size: int


@dataclass(frozen=True)
class Explanation:
    """What the network says about a image.

    Attributes:
        file: The image.
        seen: Shape `(S, S, 3)`, uint8, the image as the network sees it.
        probabilities: Shape `(C,)`, of each class.
        explained: The class that the maps belong to.
        maps: For each layer a map `(S, S)`, 0..1.
        notes: How the image differs from those that the network was trained on.
    """

    file: str
    seen: NDArray[np.uint8]
    probabilities: NDArray[np.float64]
    explained: int
    maps: dict[Layer, NDArray[np.float32]]
    notes: list[str]


def load(path: str) -> Trained:
    """Load a network from a run's folder or a checkpoint."""
    file = checkpoints.of_run(path)
    checkpoint = checkpoints.read(file)
    try:
        built, data = checkpoint["hyper_parameters"], checkpoint["ImageDataModule"]
        net = ResNet18(built["num_classes"], built["mean"], built["std"], built["stem"], built["norm"])
        net.load_state_dict(checkpoints.net_state(checkpoint["state_dict"]))
        trained = Trained(net.eval().requires_grad_(False), tuple(data["classes"]), data["image_size"])
    except (KeyError, RuntimeError) as error:
        raise UsageError(
            f"--ckpt_path {path}: {file} does not say what its network was trained for ({error}); give a checkpoint "
            "of python -m cifar_lit.fit"
        ) from None
    return trained


def explain(
    trained: Trained, file: str, class_name: str | None, layers: Sequence[Layer], method: str = "GradCAM"
) -> Explanation:
    """Classify a image file and explain one class, the predicted one if none is named.

    Raises:
        UnreadableError: The file is no image, or a broken one.
    """
    seen = read(file, trained.image_size)
    device = trained.net.normalize.mean.device
    with torch.inference_mode():
        logits = trained.net(torch.from_numpy(seen[None].copy()).to(device))[0].double()
    probabilities = logits.softmax(0).cpu().numpy()
    explained = trained.classes.index(class_name) if class_name else int(probabilities.argmax())
    raw = activation_maps(trained.net, seen[None], np.array([[explained]]), layers, method)
    maps = {layer: upscale(raw[layer][0, 0], trained.image_size) for layer in layers}
    return Explanation(file, seen, probabilities, explained, maps, _notes(file, trained.image_size))


def _notes(file: str, size: int) -> list[str]:
    """Say what happened to a image on the way to the network's size."""
    with Image.open(file) as image:
        width, height = image.size
    short, long = sorted((width, height))
    notes = []
    if short < size:
        notes.append(f"only {short} px on its shorter side, enlarged to {size}: it will look blurred to the network")
    elif short > 4 * size:
        notes.append(f"{short} px on its shorter side, reduced to {size}: details are lost")
    if long > short * 1.02:
        notes.append(f"not square: only its middle {short / long:.0%} were looked at")
    return notes


def run(options: argparse.Namespace) -> None:
    """Explain all images that the command line names, and write the results.

    Raises:
        UsageError: An option cannot be used.
        RunError: Some images could not be read; the others were explained.
    """
    method = cams.check("--method", options.method)
    files = list(_files(options.images))
    folder = new_folder(options.out, "explain")
    trained = load(options.ckpt_path)
    if options.class_name is not None and options.class_name not in trained.classes:
        raise UsageError(f"--class {options.class_name}: the network knows {', '.join(trained.classes)}")
    trained.net.to("cuda" if torch.cuda.is_available() else "cpu")
    layers: list[Layer] = list(dict.fromkeys(options.layers or [default_layer(trained.net, trained.image_size)]))
    folder.mkdir(parents=True, exist_ok=True)
    names = _Names()
    results: list[dict[str, Any]] = []
    sheet: list[tuple[figures.Pixels, str]] = []
    failures = []
    for file in tqdm(files, unit="image", delay=2, leave=False, disable=None):
        try:
            one = explain(trained, file, options.class_name, layers, method)
            image = _at_drawn_size(read(file, DRAWN))
        except UnreadableError as error:
            failures.append(str(error))
            continue
        overlays = {layer: figures.overlay(image, heat) for layer, heat in one.maps.items()}
        top = [(trained.classes[i], float(one.probabilities[i])) for i in np.argsort(-one.probabilities)[: options.top]]
        name = names.free(Path(file).stem)
        _draw(folder / f"{name}.png", one, image, overlays, trained, top, method)
        if len(sheet) < SHEET:
            sheet.append((overlays[layers[-1]], f"{name[:24]}\n{top[0][0]} {top[0][1]:.0%}"))
        results.append(
            {
                "file": file,
                "overlay": f"{name}.png",
                "top": [{"class": label, "probability": share} for label, share in top],
                "explained": trained.classes[one.explained],
                "method": method,
                "layers": layers,
                "notes": one.notes,
            }
        )
        tqdm.write(_table(file.encode(errors="replace").decode(), top, one.notes))
    if sheet:
        images, titles = zip(*sheet, strict=True)
        figures.save(
            figures.grid(images, titles, f"{figures.method_name(method)} of {layers[-1]} ({options.ckpt_path})"),
            folder / "contact_sheet.png",
        )
    text = json.dumps({"checkpoint": options.ckpt_path, "images": results, "unreadable": failures}, indent=2)
    atomic_write_text(folder / "explain.json", text + "\n")
    print(f"{len(results)} image{'s' * (len(results) != 1)} explained in {folder}")
    if failures:
        raise RunError("unreadable, and left out:\n  " + "\n  ".join(failures))


def _files(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the files that are named, and the images in the folders that are named."""
    for argument in arguments:
        if os.path.isdir(argument):
            found = [
                os.path.join(folder, name)
                for folder, _, names in os.walk(argument)
                for name in names
                if name.lower().endswith(SUFFIXES) and not name.startswith(".")
            ]
            if not found:
                raise UsageError(f"{argument}: this folder holds no images ({', '.join(SUFFIXES)})")
            yield from sorted(found)
        elif os.path.exists(argument):
            yield argument
        else:
            raise UsageError(f"{argument}: there is no such image or folder")


class _Names:
    """File names that are safe and each taken once."""

    def __init__(self) -> None:
        self.taken = {"contact_sheet"}

    def free(self, stem: str) -> str:
        safe = re.sub(r"[^\w.-]", "_", stem).lstrip(".")[:80] or "image"
        name = next(n for i in itertools.count(1) if (n := safe if i == 1 else f"{safe}_{i}") not in self.taken)
        self.taken.add(name)
        return name


def _at_drawn_size(image: figures.Pixels) -> figures.Pixels:
    resized = Image.fromarray(image).resize((DRAWN, DRAWN), Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def _draw(
    path: Path,
    one: Explanation,
    image: figures.Pixels,
    overlays: dict[Layer, figures.Pixels],
    trained: Trained,
    top: Sequence[tuple[str, float]],
    method: str,
) -> None:
    share = one.probabilities[one.explained]
    titles = ["the image", f"as the network sees it, {trained.image_size} px", *overlays]
    heading = (
        f"{', '.join(f'{label} {probability:.0%}' for label, probability in top[:3])}\n"
        f"{figures.method_name(method)} for {trained.classes[one.explained]} ({share:.0%})"
    )
    images = [image, _at_drawn_size(one.seen), *overlays.values()]
    figures.save(figures.grid(images, titles, heading, columns=6), path)


def _table(file: str, top: Sequence[tuple[str, float]], notes: Sequence[str]) -> str:
    lines = [file, *(f"  {probability:7.2%}  {label}" for label, probability in top)]
    return "\n".join(lines + [f"  note: {note}" for note in notes])
