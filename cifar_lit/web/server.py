"""Serve the page of a folder."""

from pathlib import Path
from typing import Any

from cifar_lit.inference.classifier import Classifier
from cifar_lit.web import page
from cifar_lit.web.content import Content
from cifar_lit.web.views import Views

WEIGHTS = "model.ckpt"
MAX_UPLOAD = "20mb"
MAX_QUEUED = 20  # requests


def launch(folder: Path, classifier: Classifier | None = None, **options: Any) -> Any:
    """Start the server, and return the page.

    Args:
        folder: With `content.json`, the images and the model card that it names.
        classifier: The network; by default that of `model.ckpt` in the folder.
        options: As for gradio's `launch`.

    Raises:
        OSError: The port is not free.
    """
    classifier = classifier or Classifier.load(folder / WEIGHTS)
    blocks = page.build(Views(classifier, folder, Content.load(folder)))
    blocks.queue(max_size=MAX_QUEUED, default_concurrency_limit=1, api_open=False)
    blocks.launch(
        share=False,
        max_file_size=MAX_UPLOAD,
        run_history=False,  # would keep uploaded images in the browser
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        **page.style(),
        **options,
    )
    return blocks
