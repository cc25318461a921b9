"""From arrays to figures; knows nothing of networks and training."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.utils.files import atomic_write

Pixels = NDArray[np.uint8]

TRAIN, VAL = "#4477aa", "#ee7733"  # told apart by the colour-blind too (Paul Tol's schemes)
CELL = 160  # pixels a image is enlarged to, at least


def thumbnails(images: Iterable[Pixels], most: int) -> Pixels:
    """Shrink images `(H, H, 3)`, one after another, to `most` pixels a side if they are larger: `(N, h, h, 3)`."""
    return np.stack([_shrunk(image, most) for image in images])


def _shrunk(image: Pixels, most: int) -> Pixels:
    if len(image) <= most:
        return image
    return np.asarray(cv2.resize(image, (most, most), interpolation=cv2.INTER_AREA), np.uint8)


def enlarge(image: Pixels) -> Pixels:
    """Enlarge a image `(H, W, 3)` without blur, by a whole factor, to 160 px or more."""
    factor = -(-CELL // image.shape[0])
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def overlay(image: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Lay a map over a image.

    Args:
        image: Shape `(H, W, 3)`, uint8.
        heat: Shape `(H, W)`, 0..1; enlarged bilinearly, while the image keeps its pixels.
    """
    large = enlarge(image)
    smooth = cv2.resize(heat, large.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = matplotlib.colormaps["inferno"](smooth)[..., :3] * 255
    return np.asarray(0.45 * large + 0.55 * colours, dtype=np.uint8)


def side_by_side(images: Sequence[Pixels]) -> Pixels:
    """Join enlarged images of one height into a strip."""
    gap = np.full((images[0].shape[0], 6, 3), 255, dtype=np.uint8)
    return np.concatenate([part for image in images for part in (gap, image)][1:], axis=1)


def grid(images: Sequence[Pixels], titles: Sequence[str], heading: str, columns: int = 5) -> Figure:
    """Draw images (uint8, of one shape, each drawn as large as it is or larger) in rows, a title over each."""
    height, width = images[0].shape[:2]
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    lines = 1 + max(title.count("\n") for title in titles)
    cell = (width / CELL * 1.6, height / CELL * 1.6 + 0.19 * lines)
    figure = Figure(figsize=(max(columns * cell[0] + 0.3, 4.5), rows * cell[1] + 0.6), layout="constrained")
    figure.suptitle(_plain(heading), fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(_plain(title), fontsize=8, pad=3, y=1)  # without y its place is looked for, again and again
    return figure


def sentence(text: str) -> Figure:
    """Draw a sentence where there is no image to draw."""
    figure = Figure(figsize=(6, 1))
    figure.text(0.5, 0.5, _plain(text), ha="center", va="center")
    return figure


def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss, accuracy and learning rate over epochs.

    Args:
        history: One mapping an epoch, with `epoch` (counted from 0) and any of `train/loss`, `val/loss`,
            `train/accuracy`, `val/accuracy` (0..1) and `lr`.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for split, colour, marker in (("train", TRAIN, "o"), ("val", VAL, "s")):
        for axis, name in ((loss, "loss"), (accuracy, "accuracy")):
            _line(axis, history, f"{split}/{name}", colour, marker, label=split)
    _line(rate, history, "lr", matplotlib.rcParams["text.color"], "o", label="at the end of the epoch")
    for axis, title in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate")):
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(history) == 1:
            axis.set_xlim(0.5, 1.5)  # around the one epoch, or there would be no whole number on the axis
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    losses = [row[key] for row in history for key in ("train/loss", "val/loss") if row.get(key, 0) > 0]
    if losses and max(losses) > 20 * min(losses):  # one bad epoch must not flatten all the others
        loss.set_yscale("log")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    rate.yaxis.set_major_formatter("{x:.3g}")  # without a power of ten beside the title
    return figure


def _line(axis: Axes, history: Sequence[Mapping[str, float]], key: str, colour: str, marker: str, label: str) -> None:
    points = [(row["epoch"] + 1, row[key]) for row in history if key in row]
    if points:
        axis.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, label=label)


def class_bars(classes: Sequence[str], accuracy: NDArray[np.float64], overall: float) -> Figure:
    """Draw the accuracy of each class (0..1; nan where the class has no images), the best at the top."""
    order = np.argsort(np.nan_to_num(accuracy, nan=-1.0), kind="stable")
    figure = Figure(figsize=(6, 0.9 + 0.28 * len(classes)), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh([_plain(classes[i]) for i in order], np.nan_to_num(accuracy[order]), color=TRAIN)
    axis.bar_label(bars, [_percent(accuracy[i]) for i in order], padding=3, fontsize=8, backgroundcolor="white")
    axis.axvline(overall, color=VAL, linestyle="--", label=f"all classes: {_percent(overall)}")
    axis.set_xlim(0, 1.15)
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_title("test accuracy of each class")
    figure.legend(fontsize=8, loc="outside lower center")
    return figure


def confusion(table: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix `(C, C)`, rows true and columns predicted, each row shaded by its shares."""
    size = max(4.5, 1.5 + 0.5 * min(len(classes), 40))
    figure = Figure(figsize=(size, size), layout="constrained")
    axis = figure.subplots()
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_title("test images: true class (row), predicted class (column)", fontsize=10)
    axis.set_ylabel("true")
    axis.set_xlabel("predicted")
    if len(classes) <= 40:
        names = [_plain(name) for name in classes]
        axis.set_xticks(range(len(classes)), names, rotation=90, fontsize=8)
        axis.set_yticks(range(len(classes)), names, fontsize=8)
    if len(classes) <= 20:
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{table[row, column]}", ha="center", va="center", fontsize=7, color=colour)
    return figure


def reliability(
    count: NDArray[np.int64], confidence: NDArray[np.float64], accuracy: NDArray[np.float64], error: float
) -> Figure:
    """Draw accuracy over confidence, and how many images are how confident (arXiv 1706.04599, figure 1).

    Args:
        count: Shape `(B,)`, images in each of B equal bins of confidence over 0..1.
        confidence: Shape `(B,)`, their mean confidence, 0..1; nan in an empty bin.
        accuracy: Shape `(B,)`, their accuracy, 0..1; nan in an empty bin.
        error: The expected calibration error, 0..1.
    """
    figure = Figure(figsize=(5, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(count) + 1)
    width = edges[1]
    upper.plot([0, 1], [0, 1], color=matplotlib.rcParams["text.color"], linestyle="--", label="as sure as right")
    upper.bar(
        edges[:-1], np.nan_to_num(accuracy), width, align="edge", color=TRAIN, edgecolor="white", label="accuracy"
    )
    upper.plot(confidence, accuracy, color=VAL, marker="o", markersize=4, linestyle="", label="at the mean confidence")
    upper.set_ylabel("accuracy")
    upper.set_title(f"expected calibration error {error:.1%}", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)  # inside it would lie on the bars
    lower.bar(edges[:-1], count, width, align="edge", color=TRAIN, edgecolor="white")
    lower.set_ylabel("images")
    lower.set_xlabel("confidence, the probability of the prediction")
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _plain(text: str) -> str:
    """Keep matplotlib from taking what stands between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def _percent(share: float) -> str:
    return "no images" if np.isnan(share) else f"{share:.1%}"


def lr_range(rates: NDArray[np.float64], losses: NDArray[np.float32], chosen: float) -> Figure:
    """Draw the learning-rate finder's steps and the rate that was chosen; what is far above the first is cut off."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses, color=TRAIN, marker="o", markersize=3, linewidth=0.5)
    axis.axvline(chosen, color=VAL, linestyle="--", label=f"chosen: {chosen:.3g}")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss of each step")
    top = 2 * float(np.median(losses[: max(1, len(losses) // 4)]))
    if np.nanmax(losses) > top:
        axis.set_ylim(0, top)
    axis.set_title("learning-rate finder")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def method_name(method: str) -> str:
    """Return how a method is called in headings."""
    return "Grad-CAM" if method == "GradCAM" else method


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file."""
    with atomic_write(path, "wb") as file:
        Image.fromarray(to_array(figure)).save(file, "PNG")


def to_array(figure: Figure, dpi: int = 120) -> Pixels:
    """Render a figure to `(H, W, 3)`, uint8."""
    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()  # savefig would draw twice, and end with a PNG file
    return np.array(canvas.buffer_rgba())[..., :3]
