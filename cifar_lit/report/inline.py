"""Plots, images and CAMs as text inside a page."""

import base64
import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.analysis.gradcam import upscale, why_flat

MAX_IMAGE_PX = 96
LOSSLESS_PX = 48  # smaller images are kept as they are; also the largest CAM
INK = "#123456"  # stands for the page's text color while matplotlib draws


def svg(draw: Callable[[], Figure]) -> str:
    """Draw a figure in the text color of the page, for the light and the dark theme."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    style: Any = {"svg.fonttype": "none", "legend.framealpha": 0, "svg.hashsalt": "cifar_lit", "text.usetex": False}
    with matplotlib.rc_context(style | dict.fromkeys(inked, INK)):
        file = io.StringIO()
        draw().savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def thumbnail(image: NDArray[np.uint8], max_px: int = MAX_IMAGE_PX) -> str:
    """Return an image as a data URI; without loss if it is small, unless it is to be smaller than usual."""
    small, file = Image.fromarray(image), io.BytesIO()
    if max(small.size) <= LOSSLESS_PX and max_px == MAX_IMAGE_PX:
        small.save(file, "WEBP", lossless=True, method=0)  # 28% smaller than PNG for CIFAR-10, and faster
    else:
        small.thumbnail((max_px, max_px))
        small.save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def encode_cam(cam: NDArray[np.float32]) -> list[object]:
    """Return width and values of a CAM, 0..255, and why it is flat, as templates/page.js reads it."""
    scaled = upscale(cam, min(cam.shape[0], LOSSLESS_PX)) * 255
    return [len(scaled), base64.b64encode(scaled.round().astype(np.uint8).tobytes()).decode(), why_flat(cam)]


def color_table(name: str) -> str:
    """Return the 256 RGB triples of a color map, in base64."""
    table = matplotlib.colormaps[name](np.arange(256))[:, :3]
    return base64.b64encode((np.asarray(table) * 255).round().astype(np.uint8).tobytes()).decode()
