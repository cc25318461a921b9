"""Grad-CAM of the misclassified test images."""

from cifar_lit.analysis import cam_methods
from cifar_lit.analysis.gradcam import default_layer
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.models.resnet import Layer
from cifar_lit.report import figures
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least


class GradCAMGrid(ReportCallback):
    """Explains the misclassified images, the same ones as `MisclassifiedImages` draws.

    Writes `gradcam_true.png` and `gradcam_predicted.png`, and `gradcam_LAYER.png` for each layer.

    Args:
        k: Number of images, 1 or more.
        layers: Layers to draw, `layer1` to `layer4`. Default: the deepest whose CAM is larger than 5 px.
        method: `GradCAM`, or another method of the grad-cam package: HiResCAM, GradCAM++, LayerCAM, XGradCAM,
            EigenCAM, FinerCAM, ScoreCAM, ...
    """

    def __init__(self, k: int = 10, layers: list[Layer] | None = None, method: str = "GradCAM") -> None:
        self.k = at_least("misclassified.k", k, 1)
        self.layers = layers
        self.method = cam_methods.check("gradcam.method", method)

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write the figures."""
        for panel in ("true", "predicted"):
            writer.figure(f"gradcam_{panel}", figures.gradcam(results, self.k, [panel], method=self.method))
        layers = self.layers or [default_layer(results.network, results.data.image_size)]
        for layer in dict.fromkeys(layers):
            writer.figure(f"gradcam_{layer}", figures.gradcam(results, self.k, layer=layer, method=self.method))
