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
.gradio-container {{ width: 100%; max-width: 1200px !important; margin: 0 auto; }}
.gradio-container :is(h1, h2, h3, p, li, figcaption) {{ overflow-wrap: anywhere; }}
.gradio-container input[role=combobox] {{ padding-right: 1.6rem; text-overflow: ellipsis; }}
.tab-container button {{ padding: 0 .7rem; }}
#image img {{ width: 100%; height: 100%; object-fit: contain; }}
:is(#examples, #gallery) img {{ image-rendering: pixelated; }}
#gallery .grid-wrap {{ max-height: 34rem; overflow-y: auto; }}
#gallery .grid-container {{ grid-template: none; grid-auto-rows: auto; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(90px, 1fr)); }}
#gallery button {{ display: block; height: auto; aspect-ratio: auto; }}
#gallery button img {{ height: auto; aspect-ratio: 1; }}
#gallery .caption-label {{ position: static; max-width: none; border: 0; white-space: normal; text-align: center; }}
#card {{ max-width: calc(100vw - 4.2rem); }}
#card :is(pre, code) {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
#card table {{ display: block; overflow-x: auto; }}
#card :is(th, td) {{ padding: .3rem .5rem; white-space: nowrap; }}
.result {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.result figure {{ flex: 1 1 220px; max-width: 420px; margin: 0; }}
.result figure div {{ position: relative; aspect-ratio: 1; background: var(--background-fill-secondary); }}
.result img {{ position: absolute; inset: 0; width: 100%; height: 100%; border-radius: var(--radius-md); }}
.result img:first-child {{ image-rendering: pixelated; }}
.result .heatmap {{ opacity: var(--opacity, {CAM_OPACITY}); }}
.result figcaption {{ margin-top: .4rem; }}
.result ol {{ flex: 1 1 220px; list-style: none; margin: 0; padding: 0; }}
.result li {{ display: grid; grid-template-columns: 1fr auto; gap: 0 .6rem; margin: 0 0 .5rem; }}
.result li[hidden] {{ display: none; }}
.result i {{ grid-column: 1 / -1; height: .5rem; border-radius: .25rem; background: var(--border-color-primary); }}
.result i::before {{ content: ""; display: block; width: var(--part); height: 100%; border-radius: inherit;
  background: var(--color-accent); }}
.result li b {{ font-weight: 500; font-variant-numeric: tabular-nums; }}
.message {{ padding: .8rem 1rem; border-left: 4px solid var(--color-accent);
  background: var(--background-fill-secondary); }}
"""


def cams(image: Pixels, drawn: Iterable[tuple[NDArray[np.float32], str, str]], beside: str = "") -> str:
    """Return an image with CAMs laid over it, side by side.

    Args:
        image: Shape `(S, S, 3)`, uint8.
        drawn: For each CAM `(S, S)`, 0..1, its caption, and a second line or "".
        beside: HTML at their side, or below on a narrow screen.
    """
    below = f'<img src="{_png(image)}" alt="the image as the network sees it, {len(image)} px">'
    figures = [
        f'<figure><div>{below}<img class="heatmap" src="{_png(heatmap(cam))}" alt="{escape(caption)}"></div>'
        f"<figcaption><b>{escape(caption)}</b><br>{escape(note)}</figcaption></figure>"
        for cam, caption, note in drawn
    ]
    return f'<div class="result">{"".join(figures)}{beside}</div>'


def classes(ranked: Sequence[tuple[str, float]], shown: int) -> str:
    """Return a list of classes with their probabilities, of which the first ones are shown."""
    rows = [
        f"<li{' hidden' * (rank >= shown)}>{escape(name)} <b>{probability:.1%}</b>"
        f'<i style="--part: {probability:.1%}"></i></li>'
        for rank, (name, probability) in enumerate(ranked)
    ]
    return f"<ol>{''.join(rows)}</ol>"


def message(text: str) -> str:
    """Return a sentence in place of a result."""
    return f'<p class="message" role="status">{escape(text)}</p>'


def _png(pixels: Pixels) -> str:
    """Return an image as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
