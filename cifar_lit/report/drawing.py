"""From arrays to pixels and plots, independent of networks and runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.report import fonts
from cifar_lit.utils.files import atomic_write

Pixels = NDArray[np.uint8]

TRAIN, VAL = "#4477aa", "#ee7733"  # distinguishable by the color-blind too (Paul Tol's schemes)
TILE_PX = 160  # images are enlarged to at least this
CAM_OPACITY = 0.55  # as in templates/page.js


def thumbnails(images: Iterable[Pixels], max_px: int) -> Pixels:
    """Shrink images `(H, H, 3)` larger than `max_px` to that size, and stack them: `(N, h, h, 3)`."""
    small = [
        image if len(image) <= max_px else cv2.resize(image, (max_px, max_px), interpolation=cv2.INTER_AREA)
        for image in images
    ]
    return np.stack(small).astype(np.uint8, copy=False)


def enlarge(image: Pixels) -> Pixels:
    """Enlarge an image `(H, W, 3)` by an integer factor, without interpolation, to at least 160 px."""
    factor = -(-TILE_PX // min(image.shape[:2]))  # its title needs the width
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def overlay(image: Pixels, cam: NDArray[np.float32], opacity: float = CAM_OPACITY) -> Pixels:
    """Lay a CAM over an image.

    Args:
        image: Shape `(H, W, 3)`, uint8; its pixels stay sharp.
        cam: Shape `(H, W)`, 0..1; enlarged bilinearly.
        opacity: Of the CAM, 0..1.
    """
    large = enlarge(image)
    smooth = cv2.resize(cam, large.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray((1 - opacity) * large + opacity * _colors(smooth), dtype=np.uint8)


def heatmap(cam: NDArray[np.float32]) -> Pixels:
    """Return the colors of a CAM `(H, W)`, 0..1: `(H, W, 3)`, uint8."""
    return np.asarray(_colors(cam), dtype=np.uint8)


def _colors(cam: NDArray[Any]) -> NDArray[np.float64]:
    colors: NDArray[np.float64] = matplotlib.colormaps["inferno"](cam)[..., :3] * 255
    return colors


def side_by_side(images: Sequence[Pixels]) -> Pixels:
    """Join images of equal height in a row, with white gaps."""
    gap = np.full((images[0].shape[0], 6, 3), 255, dtype=np.uint8)
    return np.concatenate([part for image in images for part in (gap, image)][1:], axis=1)


def grid(images: Sequence[Pixels], titles: Sequence[str], heading: str, columns: int = 5) -> Figure:
    """Draw images (uint8, all of one shape) in rows, with a title above each."""
    height, width = images[0].shape[:2]
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    lines = 1 + max(title.count("\n") for title in titles)
    cell = (width / TILE_PX * 1.6, height / TILE_PX * 1.6 + 0.19 * lines)
    figure = Figure(figsize=(max(columns * cell[0] + 0.3, 4.5), rows * cell[1] + 0.6), layout="constrained")
    figure.suptitle(escape(heading), fontsize=10, fontfamily=fonts.families(heading))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(image, interpolation="nearest")
        # y avoids a slow search for its position.
        axis.set_title(escape(title), fontsize=8, pad=3, y=1, fontfamily=fonts.families(title))
    return figure


def sentence(text: str) -> Figure:
    """Draw a sentence where there is no image to draw."""
    figure = Figure(figsize=(6, 1))
    figure.text(0.5, 0.5, escape(text), ha="center", va="center", fontfamily=fonts.families(text))
    return figure


def line(axis: Axes, points: Sequence[tuple[float, float | None]], color: str, marker: str, label: str) -> None:
    """Plot the points whose value is not None, if there are any."""
    known = [(x, y) for x, y in points if y is not None]
    if known:
        axis.plot(*zip(*known, strict=True), color=color, marker=marker, markersize=3, label=label)


def escape(text: str) -> str:
    """Keep matplotlib from typesetting text between two dollar signs as a formula, and from drawing missing glyphs."""
    return fonts.replace_missing(text).replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file."""
    with atomic_write(path, "wb") as file:
        Image.fromarray(to_array(figure)).save(file, "PNG")


def to_array(figure: Figure, dpi: int = 120) -> Pixels:
    """Render a figure to `(H, W, 3)`, uint8."""
    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure)
    with matplotlib.rc_context({"text.usetex": False}):  # LaTeX, if the user's style has it, would reject % and _
        for text in figure.findobj(Text):
            text.set_usetex(False)
        canvas.draw()  # savefig would draw twice
    return np.array(canvas.buffer_rgba())[..., :3]
