"""What a trained network predicts for image files, and Grad-CAM of them."""

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

from cifar_lit.analysis import cam_methods
from cifar_lit.analysis.gradcam import activation_maps, default_layer, upscale, why_flat
from cifar_lit.data.decode import DARK, SCALE, UnreadableError, read
from cifar_lit.data.image_folder import SUFFIXES, print_ignored, walk
from cifar_lit.data.sampling import eval_batch_size
from cifar_lit.models.resnet import LAYERS, Layer
from cifar_lit.models.weights import TrainedNetwork, load_network
from cifar_lit.report import drawing, fonts
from cifar_lit.report.figures import method_name
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.files import atomic_write_text, new_folder

DRAWN_PX = 320  # of an image in the figures
BATCH_SIZE = 32
MAX_ON_SHEET = 100  # images on the contact sheet


@dataclass(frozen=True)
class Explanation:
    """What the network predicts for an image.

    Attributes:
        pixels: Shape `(S, S, 3)`, uint8, the image as the network sees it.
        probabilities: Shape `(C,)`, of each class.
        label: The class that the heatmaps are evidence for.
        heatmaps: For each layer a heatmap `(S, S)`, 0..1.
        flat: Why heatmaps have no contrast, by layer; see `why_flat`.
    """

    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float64]
    label: int
    heatmaps: dict[Layer, NDArray[np.float32]]
    flat: dict[Layer, str]

    def top(self, classes: Sequence[str], count: int) -> list[dict[str, Any]]:
        """Return name and probability of the most probable classes."""
        order = np.argsort(-self.probabilities)[:count]
        return [{"class": classes[i], "probability": float(self.probabilities[i])} for i in order]


def explain(
    trained: TrainedNetwork,
    images: NDArray[np.uint8],
    class_name: str | None,
    layers: Sequence[Layer],
    method: str = "GradCAM",
) -> Iterator[Explanation]:
    """Classify images `(B, S, S, 3)`, uint8, and explain a class, by default the predicted one of each."""
    with torch.inference_mode():
        logits = trained.net(torch.from_numpy(images).to(trained.net.normalize.mean.device))
    probabilities = logits.double().softmax(1).cpu().numpy()
    labels = probabilities.argmax(1)
    if class_name:
        labels[:] = trained.classes.index(class_name)
    maps = activation_maps(trained.net, images, labels[:, None], layers, method)
    for i, (pixels, row, label) in enumerate(zip(images, probabilities, labels.tolist(), strict=True)):
        cams = {layer: maps[layer][i, 0] for layer in layers}
        heatmaps = {layer: upscale(cam, trained.image_size) for layer, cam in cams.items()}
        flat = {layer: reason for layer, cam in cams.items() if (reason := why_flat(cam))}
        yield Explanation(pixels, row, label, heatmaps, flat)


def explain_all(
    images: Sequence[str],
    ckpt_path: str,
    class_name: str | None = None,
    layers: Sequence[Layer] | None = None,
    method: str = "GradCAM",
    top: int = 5,
    out: str | None = None,
) -> None:
    """Explain image files; write an overlay for each, a contact sheet and explain.json.

    Args:
        images: Files, and folders of images.
        ckpt_path: A run's folder or a checkpoint.
        class_name: Class to explain; by default the predicted one of each image.
        layers: Layers to explain; by default the deepest with a heatmap above 5 px.
        method: Of the grad-cam package.
        top: Number of classes to list, 1 or more.
        out: Folder for the results; by default a new `explain_N`.

    Raises:
        UsageError: An option cannot be used.
        RunError: Some images could not be read; the others are explained.
    """
    if top < 1:
        raise UsageError(f"--top must be 1 or more, got {top}")
    if unknown := set(layers or ()) - set(LAYERS):
        raise UsageError(f"--layers {' '.join(sorted(unknown))}: choose from {', '.join(LAYERS)}")
    method = cam_methods.check("--method", method)
    files, folder = list(_image_files(images)), new_folder(out, "explain")
    trained = load_network(ckpt_path)
    if class_name is not None and class_name not in trained.classes:
        raise UsageError(f"--class {class_name}: the network's classes are {', '.join(trained.classes)}")
    trained.net.to("cuda" if torch.cuda.is_available() else "cpu")
    shown = list(dict.fromkeys(layers or [default_layer(trained.net, trained.image_size)]))
    folder.mkdir(parents=True, exist_ok=True)
    names, classes = {"contact_sheet"}, fonts.class_names(trained.classes, 24)
    results: list[dict[str, Any]] = []
    sheet: list[tuple[drawing.Pixels, str]] = []
    unreadable: list[str] = []
    batches = _read_batches(files, trained.image_size, unreadable)
    explained = (
        (*drawable, explanation)
        for batch, pixels in batches
        for drawable, explanation in zip(batch, explain(trained, pixels, class_name, shown, method), strict=True)
    )
    for file, image, explanation in tqdm(explained, total=len(files), unit="image", delay=2, leave=False, disable=None):
        result: dict[str, Any] = {
            "file": file,
            "overlay": f"{_unique_name(Path(file).stem, names)}.png",
            "top": explanation.top(trained.classes, top),
            "explained": trained.classes[explanation.label],
            "method": method,
            "layers": shown,
            "notes": _notes(file, explanation.pixels) + [f"{name}: {why}" for name, why in explanation.flat.items()],
        }
        overlays = {layer: drawing.overlay(image, heatmap) for layer, heatmap in explanation.heatmaps.items()}
        drawn = [image, _resize(explanation.pixels), *overlays.values()]
        short, long = _sides(file)
        titles = ["the image" if long == short else "the central square of the image"]
        titles += [f"as the network sees it, {trained.image_size} px"]
        titles += [f"{layer}\n{explanation.flat.get(layer, '')}".rstrip() for layer in shown]
        best = [f"{entry['class']} ({entry['probability']:.0%})" for entry in explanation.top(classes, min(top, 3))]
        heading = (
            f"prediction: {', '.join(best)}\n{method_name(method)} for class {classes[explanation.label]} "
            f"({explanation.probabilities[explanation.label]:.0%})"
        )
        drawing.save(drawing.grid(drawn, titles, heading, columns=6), folder / result["overlay"])
        if len(sheet) < MAX_ON_SHEET:
            title = f"{result['overlay'][:-4][:24]}\n{best[0]}\n{explanation.flat.get(shown[-1], '')}".rstrip()
            sheet.append((drawing.side_by_side([image, overlays[shown[-1]]]), title))
        results.append(result)
        tqdm.write(_table(result))
    if sheet:
        thumbnails, captions = zip(*sheet, strict=True)
        heading = f"{method_name(method)} of {shown[-1]}: file, predicted class (its probability)\n{ckpt_path}"
        drawing.save(drawing.grid(thumbnails, captions, heading, columns=4), folder / "contact_sheet.png")
    text = json.dumps({"checkpoint": ckpt_path, "images": results, "unreadable": unreadable}, indent=2)
    atomic_write_text(folder / "explain.json", text + "\n")
    print(f"{len(results)} image{'s' * (len(results) != 1)} explained in {folder}")
    if unreadable:
        raise RunError("unreadable and skipped:\n  " + "\n  ".join(unreadable))


def _image_files(paths: Sequence[str]) -> Iterator[str]:
    """Yield the files among the paths, and the images in the folders among them."""
    for path in paths:
        if os.path.isdir(path):
            try:
                found = walk(path)
            except OSError as error:
                raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from None
            images = [file for file in found if file.lower().endswith(SUFFIXES)]
            if not images:
                raise UsageError(f"{path}: this folder contains no images ({', '.join(SUFFIXES)})")
            print_ignored(path, sorted({*found} - {*images}))
            yield from (os.path.join(path, file) for file in images)
        elif os.path.exists(path):
            yield path
        else:
            raise UsageError(f"{path}: no such image or folder")


def _read_batches(
    files: Sequence[str], size: int, unreadable: list[str]
) -> Iterator[tuple[list[tuple[str, drawing.Pixels]], NDArray[np.uint8]]]:
    """Yield batches: each file with its image to draw, and the images for the network `(B, size, size, 3)`.

    The errors of files that cannot be read are added to `unreadable`.
    """
    batch_size = min(BATCH_SIZE, eval_batch_size(size))
    for start in range(0, len(files), batch_size):
        drawn, pixels = [], []
        for file in files[start : start + batch_size]:
            try:
                image, drawable = read(file, size), _resize(read(file, DRAWN_PX))
            except UnreadableError as error:
                unreadable.append(str(error))
                continue
            pixels.append(image)
            drawn.append((file, drawable))
        if drawn:
            yield drawn, np.stack(pixels)


def _unique_name(stem: str, taken: set[str]) -> str:
    """Return a safe file name that is not taken yet, and add it to the taken ones."""
    safe = re.sub(r"[^\w.-]", "_", stem).lstrip(".")[:80] or "image"
    name = next(n for i in itertools.count(1) if (n := safe if i == 1 else f"{safe}_{i}") not in taken)
    taken.add(name)
    return name


def _resize(image: drawing.Pixels) -> drawing.Pixels:
    resized = Image.fromarray(image).resize((DRAWN_PX, DRAWN_PX), Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def _sides(file: str) -> tuple[int, int]:
    """Return the shorter and the longer side of an image in px."""
    with Image.open(file) as image:
        return min(image.size), max(image.size)


def _notes(file: str, pixels: drawing.Pixels) -> list[str]:
    """Describe how an image was changed to the network's input, `pixels`."""
    size, notes = len(pixels), []
    short, long = _sides(file)
    if short < size:
        notes.append(f"only {short} px on its shorter side, enlarged to {size}: it is blurred")
    elif short > 4 * size:
        notes.append(f"{short} px on its shorter side, reduced to {size}: details are lost")
    if long > short * 1.02:
        notes.append(f"not square: only the central {short / long:.0%} were used")
    if pixels.max() <= DARK:
        notes.append(f"dark, up to {pixels.max()} of 255; {SCALE}")
    return notes


def _table(result: dict[str, Any]) -> str:
    lines = [result["file"].encode(errors="replace").decode()]
    lines += [f"  {entry['probability']:7.2%}  {entry['class']}" for entry in result["top"]]
    return "\n".join(lines + [f"  note: {note}" for note in result["notes"]])
