"""Grad-CAM of the misclassified test images."""

from collections.abc import Sequence
from typing import Any, Literal

from pytorch_lightning import LightningModule
from torch import nn

from cifar_lit.analysis import cam_methods
from cifar_lit.analysis.layer_outputs import Reshape
from cifar_lit.callbacks.any_module import MODULE_OPTIONS, ModuleOptions
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.models.resnet import Layer
from cifar_lit.report import figures
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least


class GradCAMGrid(ReportCallback):
    """Explains the misclassified images, the same ones as `MisclassifiedImages` draws.

    Writes `gradcam_true.png` and `gradcam_predicted.png`, and `gradcam_LAYER.png` for each layer.

    Args:
        k: Number of images, 1 or more.
        layers: Layers to draw. `auto`: of those with a CAM above 5 px the best in the pointing game; without it
            (evidence.num_mosaics 0), the deepest.
        method: Of the grad-cam package: GradCAM, HiResCAM, GradCAM++, LayerCAM, EigenCAM, ...
        target_layer: For a module that is not ImageClassifier: the layer to draw, or its name in `named_modules()`.
        reshape_transform: Maps that layer's output to `(B, channels, h, w)` where it is something else, such as the
            tokens of a transformer.
        options: For such a module: as in MisclassifiedImages.
    """

    python_only = MODULE_OPTIONS
    module_options: ModuleOptions

    def __init__(
        self,
        k: int = 10,
        layers: list[Layer] | Literal["auto"] | None = "auto",
        method: str = "GradCAM",
        *,
        target_layer: nn.Module | str | None = None,
        reshape_transform: Reshape | None = None,
        **options: Any,
    ) -> None:
        self.k = at_least("misclassified.k", k, 1)
        self.layers = layers
        self.method = cam_methods.check("gradcam.method", method)
        self.module_options = ModuleOptions(**options, target_layer=target_layer, reshape_transform=reshape_transform)

    def check_module(self, module: LightningModule) -> None:
        """Raise UsageError if there is no such layer."""
        self.module_options.layer_name(module)

    def write(self, results: ErrorResults, writer: ReportWriter) -> None:
        """Write the figures."""
        for panel in ("true", "predicted"):
            writer.figure(f"gradcam_{panel}", figures.gradcam(results, self.k, [panel], method=self.method))
        layers: Sequence[str] = self.layers if isinstance(self.layers, list) else [results.default_layer]
        for layer in dict.fromkeys(layers):
            writer.figure(f"gradcam_{layer}", figures.gradcam(results, self.k, layer=layer, method=self.method))
