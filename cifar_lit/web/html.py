"""What the page shows of an image, as HTML."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.report.drawing import CAM_OPACITY, Pixels, heatmap

CSS = f"""
.gradio-container {{ max-width: 1200px !important; margin: 0 auto; }}
.gradio-container :is(h1, h2, h3, p, li, figcaption) {{ overflow-wrap: anywhere; }}
.cams {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.cams figure {{ flex: 1 1 220px; max-width: 420px; margin: 0; }}
.cams div {{ position: relative; aspect-ratio: 1; background: var(--background-fill-secondary); }}
.cams img {{ position: absolute; inset: 0; width: 100%; height: 100%; border-radius: var(--radius-md); }}
.cams img:first-child {{ image-rendering: pixelated; }}
.cams .heatmap {{ opacity: var(--opacity, {CAM_OPACITY}); }}
.cams figcaption {{ margin-top: .4rem; }}
.classes {{ list-style: none; margin: 1rem 0 0; padding: 0; max-width: 860px; }}
.classes li {{ display: grid; grid-template-columns: minmax(5rem, 9rem) 1fr 4.5rem; gap: .6rem; align-items: center;
  margin: .3rem 0; }}
.classes li[hidden] {{ display: none; }}
.classes span {{ overflow: hidden; text-overflow: ellipsis; }}
.classes meter {{ width: 100%; height: 1rem; }}
.classes b {{ text-align: right; font-weight: 500; font-variant-numeric: tabular-nums; }}
.message {{ padding: .8rem 1rem; border-left: 4px solid var(--color-accent);
  background: var(--background-fill-secondary); }}
.tiles img {{ image-rendering: pixelated; }}
"""


def cams(image: Pixels, drawn: Iterable[tuple[NDArray[np.float32], str, str]]) -> str:
    """Return an image with CAMs laid over it, side by side.

    Args:
        image: Shape `(S, S, 3)`, uint8.
        drawn: For each CAM `(S, S)`, 0..1, its caption, and a second line or "".
    """
    below = f'<img src="{_png(image)}" alt="the image as the network sees it, {len(image)} px">'
    figures = [
        f'<figure><div>{below}<img class="heatmap" src="{_png(heatmap(cam))}" alt="{escape(caption)}"></div>'
        f"<figcaption><b>{escape(caption)}</b><br>{escape(note)}</figcaption></figure>"
        for cam, caption, note in drawn
    ]
    return f'<div class="cams">{"".join(figures)}</div>'


def classes(ranked: Sequence[tuple[str, float]], shown: int) -> str:
    """Return a list of classes with their probabilities, of which the first ones are shown."""
    rows = [
        f"<li{' hidden' * (rank >= shown)}><span title='{escape(name)}'>{escape(name)}</span>"
        f"<meter value='{probability:.4f}' aria-label='{escape(name)}'></meter><b>{probability:.1%}</b></li>"
        for rank, (name, probability) in enumerate(ranked)
    ]
    return f'<ol class="classes">{"".join(rows)}</ol>'


def message(text: str) -> str:
    """Return a sentence in place of a result."""
    return f'<p class="message" role="status">{escape(text)}</p>'


def _png(pixels: Pixels) -> str:
    """Return an image as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
