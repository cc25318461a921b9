"""The misclassified test images."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cifar_lit.callbacks.any_module import MODULE_OPTIONS, ModuleOptions
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures, tables
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least


class MisclassifiedImages(ReportCallback):
    """Writes all misclassified test images, the highest loss first, to `misclassified.csv`, and `misclassified.png`.

    It works with any LightningModule that maps a batch of images to logits, and loaders of `(images, labels)`: the test
    loader, else the validation loader. The arguments after `k` are for such modules; given to MisclassifiedImages or
    to GradCAMGrid, they hold for both.

    Args:
        k: Images to draw, 1 or more.
        class_names: Default: `dataset.classes` of the loader, as torchvision's datasets have it, else numbers.
        mean: Mean of each channel with which the images were normalized; to draw them. Default: they are not
            normalized, but uint8 or 0..1.
        std: Standard deviation, likewise.
        to_display: Maps a batch of images, on the CPU, to `(B, H, W, 3)`, uint8; in place of `mean` and `std`.
        logits: Maps the output of `forward` to logits `(B, C)`. Default: they are its output.
        dataloader: The loader to use.
    """

    python_only = MODULE_OPTIONS

    def __init__(
        self,
        k: int = 10,
        *,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        to_display: Callable[[Tensor], Tensor | NDArray[np.uint8]] | None = None,
        logits: Callable[[Any], Tensor] | None = None,
        dataloader: Iterable[Any] | None = None,
    ) -> None:
        self.k = at_least("misclassified.k", k, 1)
        self.module_options = ModuleOptions(class_names, mean, std, to_display, logits, dataloader)

    def write(self, results: ErrorResults, writer: ReportWriter) -> None:
        """Write table and figure."""
        writer.table("misclassified", *tables.misclassified(results))
        writer.figure("misclassified", figures.misclassified(results, self.k))
