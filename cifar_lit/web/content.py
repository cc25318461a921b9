"""The folder that a page shows: examples, misclassified test images and the model card."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.models.resnet import Layer
from cifar_lit.utils.files import atomic_write_text

FILE, CARD = "content.json", "README.md"


@dataclass(frozen=True)
class TestImage:
    """A test image, as the network sees it.

    Attributes:
        file: A PNG file, relative to the folder.
        true: Its class.
        predicted: The class that the network predicts.
    """

    __test__ = False  # it is no test of pytest

    file: str
    true: str
    predicted: str


@dataclass(frozen=True)
class Content:
    """The examples and the misclassified test images of a run.

    Attributes:
        title: Of the page.
        summary: One sentence about the network.
        layer: The layer whose CAMs are shown at first.
        examples: Correctly classified images.
        errors: Misclassified images, the highest loss first.
        num_errors: How many test images are misclassified; `errors` may be fewer.
        num_test: How many test images there are.
        missing: Why there are no examples and errors; empty if there are.
    """

    title: str
    summary: str
    layer: Layer
    examples: tuple[TestImage, ...] = ()
    errors: tuple[TestImage, ...] = ()
    num_errors: int = 0
    num_test: int = 0
    missing: str = ""

    def save(self, folder: Path) -> None:
        """Write `content.json`."""
        atomic_write_text(folder / FILE, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Content":
        """Read `content.json`."""
        values: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        images = {name: tuple(TestImage(**image) for image in values[name]) for name in ("examples", "errors")}
        return cls(**values | images)


def read_card(folder: Path) -> str:
    """Return the model card of a folder, Markdown, without its front matter; empty if there is none."""
    if not (folder / CARD).exists():
        return ""
    text = (folder / CARD).read_text(encoding="utf-8")
    return text.split("---\n", 2)[2].strip() if text.startswith("---\n") else text


def save_image(folder: Path, file: str, pixels: NDArray[np.uint8]) -> str:
    """Write an image `(H, W, 3)` to a PNG file in a folder, and return its name."""
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return file
