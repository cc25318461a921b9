"""What a trained network predicts for image files, and Grad-CAM of them."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cifar_lit.analysis import cam_methods
from cifar_lit.data.decode import DARK, SCALE, UnreadableError, read
from cifar_lit.inference.classifier import EXPLAINED_BATCH, Classifier
from cifar_lit.inference.images import expand
from cifar_lit.inference.results import Explanations
from cifar_lit.models.resnet import LAYERS, Layer
from cifar_lit.report import drawing, fonts
from cifar_lit.report.figures import method_name
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.files import atomic_write_text, check_new_folder, new_folder
from cifar_lit.utils.hardware import eval_batch_size
from cifar_lit.utils.text import counted

DRAWN_PX = 320  # of an image in the figures
MAX_ON_SHEET = 100  # images on the contact sheet


def explain_all(
    run: str,
    images: Sequence[str],
    class_name: str | None = None,
    layers: Sequence[Layer] | None = None,
    method: str = "GradCAM",
    top: int = 5,
    out: str | None = None,
    calibrated: bool = False,
) -> None:
    """Explain image files; write an overlay for each, a contact sheet and explain.json.

    Args:
        run: A run's folder or a checkpoint.
        images: Files, and folders of images.
        class_name: Class to explain; by default the predicted one of each image.
        layers: Layers to explain; by default as in `Classifier.explain`.
        method: Of the grad-cam package.
        top: Number of classes to list, 1 or more.
        out: Folder for the results; by default a new `explain_N`.
        calibrated: Whether to apply temperature scaling; CAMs do not depend on it.

    Raises:
        UsageError: An option cannot be used.
        RunError: Some images could not be read; the others are explained.
    """
    if top < 1:
        raise UsageError(f"--top must be 1 or more, got {top}")
    if unknown := set(layers or ()) - set(LAYERS):
        raise UsageError(f"--layers {' '.join(sorted(unknown))}: choose from {', '.join(LAYERS)}")
    method = cam_methods.check("--method", method)
    check_new_folder(out)
    files = [str(file) for file in expand(images)]
    classifier = Classifier.load(run)
    if class_name is not None and class_name not in classifier.classes:
        raise UsageError(f"--class {class_name}: the network's classes are {', '.join(classifier.classes)}")
    if calibrated:
        classifier.require_temperature("--calibrated")
    shown = list(dict.fromkeys(layers or classifier.layer_choice[:1]))
    folder = new_folder(out, "explain")
    if not layers:
        print(": ".join(classifier.layer_choice))
    names = {"contact_sheet"}
    short_names = dict(zip(classifier.classes, fonts.class_names(classifier.classes, 24), strict=True))
    results: list[dict[str, Any]] = []
    sheet: list[tuple[drawing.Pixels, str]] = []
    unreadable: list[str] = []
    with tqdm(total=len(files), unit="image", delay=2, leave=False, disable=None) as bar:
        for batch, pixels in _read_batches(files, classifier.image_size, unreadable):
            explanations = classifier.explain(pixels, class_name, shown, method, calibrated)
            ranked = explanations.predictions.top(len(classifier.classes))
            for row, ((file, image), best) in enumerate(zip(batch, ranked, strict=True)):
                name = _unique_name(Path(file).stem, names)
                one = _Explained(file, image, explanations, row, best, short_names)
                drawing.save(one.draw(min(top, 3)), folder / f"{name}.png")
                if len(sheet) < MAX_ON_SHEET:
                    sheet.append(one.thumbnail(name))
                results.append(one.describe(name, calibrated, top))
                tqdm.write(_table(results[-1]))
                bar.update()
    if sheet:
        thumbnails, captions = zip(*sheet, strict=True)
        heading = f"{method_name(method)} of {shown[-1]}: file, predicted class (its probability)\n{run}"
        drawing.save(drawing.grid(thumbnails, captions, heading, columns=4), folder / "contact_sheet.png")
    text = json.dumps({"checkpoint": run, "images": results, "unreadable": unreadable}, indent=2)
    atomic_write_text(folder / "explain.json", text + "\n")
    print(f"{counted(len(results), 'image')} explained in {folder}")
    if unreadable:
        raise RunError("unreadable and skipped:\n  " + "\n  ".join(unreadable))


@dataclass(frozen=True)
class _Explained:
    """An image, its row of the explanations, and all classes with their probabilities, the most probable first."""

    file: str
    image: drawing.Pixels
    explanations: Explanations
    row: int
    best: list[tuple[str, float]]
    short_names: dict[str, str]

    @cached_property
    def overlays(self) -> list[drawing.Pixels]:
        """The image under the CAM of each layer."""
        return [drawing.overlay(self.image, cam) for cam in self.explanations.cams[self.row]]

    def describe(self, name: str, calibrated: bool, top: int) -> dict[str, Any]:
        """Return what explain.json says of the image."""
        found = self.explanations
        flat = zip(found.layers, found.flat[self.row], strict=True)
        return {
            "file": self.file,
            "overlay": f"{name}.png",
            "top": [{"class": label, "probability": probability} for label, probability in self.best[:top]],
            "explained": found.explained[self.row],
            "calibrated": calibrated,
            "method": found.method,
            "layers": list(found.layers),
            "notes": _notes(self.file, found.images[self.row]) + [f"{layer}: {why}" for layer, why in flat if why],
        }

    def draw(self, top: int) -> Figure:
        """Draw the image, what the network sees of it, and the CAM of each layer."""
        found, (short, long) = self.explanations, _sides(self.file)
        pixels, explained = found.images[self.row], found.explained[self.row]
        titles = ["the image" if long == short else "the central square of the image"]
        titles += [f"as the network sees it, {len(pixels)} px"]
        titles += [f"{layer}\n{why}".rstrip() for layer, why in zip(found.layers, found.flat[self.row], strict=True)]
        heading = f"prediction: {', '.join(self._text(label) for label, _ in self.best[:top])}\n"
        heading += f"{method_name(found.method)} for class {self._text(explained)}"
        return drawing.grid([self.image, _resize(pixels), *self.overlays], titles, heading, columns=6)

    def thumbnail(self, name: str) -> tuple[drawing.Pixels, str]:
        """Return the image beside its last CAM, and their caption on the contact sheet."""
        caption = f"{name[:24]}\n{self._text(self.best[0][0])}\n{self.explanations.flat[self.row][-1]}".rstrip()
        return drawing.side_by_side([self.image, self.overlays[-1]]), caption

    def _text(self, label: str) -> str:
        return f"{self.short_names[label]} ({dict(self.best)[label]:.0%})"


def _read_batches(
    files: Sequence[str], size: int, unreadable: list[str]
) -> Iterator[tuple[list[tuple[str, drawing.Pixels]], NDArray[np.uint8]]]:
    """Yield batches: each file with its image to draw, and the images for the network `(B, size, size, 3)`.

    The errors of files that cannot be read are added to `unreadable`.
    """
    batch_size = min(EXPLAINED_BATCH, eval_batch_size(size))
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
