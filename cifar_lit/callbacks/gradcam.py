"""Grad-CAM of the misclassified test images."""

import numpy as np

from cifar_lit.analysis import cam_methods as cams
from cifar_lit.analysis.gradcam import activation_maps, default_layer, upscale
from cifar_lit.callbacks.options import at_least, error_title
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.models.resnet import Layer
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report


class GradCAMGrid(ReportCallback):
    """Explains the misclassified images, the same ones, by Grad-CAM.

    Args:
        k: How many, 1 or more.
        layers: Which layers get a image of their own, `layer1` to `layer4`. Default: the deepest whose map is
            larger than 5 px.
        method: `GradCAM`, or another method of the grad-cam package: HiResCAM, GradCAM++, LayerCAM, XGradCAM,
            EigenCAM, FinerCAM, ScoreCAM, ...
    """

    def __init__(self, k: int = 10, layers: list[Layer] | None = None, method: str = "GradCAM") -> None:
        self.k = at_least("misclassified.k", k, 1)
        self.layers = layers
        self.method = cams.check("gradcam.method", method)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the pass over the test set."""
        _ = analysis.test

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `gradcam_true.png`, `gradcam_predicted.png` and `gradcam_LAYER.png` for each layer."""
        test, data = analysis.test, analysis.data
        drawn = test.errors[: self.k]
        default = default_layer(analysis.net, data.image_size)
        layers = list(dict.fromkeys(self.layers or [default]))
        names = ["gradcam_true", "gradcam_predicted", *(f"gradcam_{layer}" for layer in layers)]
        if not len(drawn):
            for name in names:
                report.figure(name, figures.sentence(f"No error to explain ({analysis.weights})."))
            return
        images = data.splits.test.images[test.indices[drawn]]
        asked = np.stack([test.labels[drawn], test.predicted[drawn]], axis=1)  # (k, 2)
        raw = activation_maps(analysis.net, images, asked, list({default, *layers}), self.method)
        heat = {  # layer -> for each image (true, predicted), each laid over it
            layer: [
                [figures.overlay(image, upscale(one, data.image_size)) for one in pair]
                for image, pair in zip(images, pairs, strict=True)
            ]
            for layer, pairs in raw.items()
        }
        method = figures.method_name(self.method)
        titles = [error_title(test, i, data.splits.classes) for i in drawn]
        for position, which in enumerate(("true", "predicted")):
            heading = (
                f"{method} of {default} for the {which} class: bright places speak for it, all dark: nothing does\n"
            )
            overlays = [pair[position] for pair in heat[default]]
            caption = f"{heading}true → predicted, probability of the prediction ({analysis.weights})"
            report.figure(f"gradcam_{which}", figures.grid(overlays, titles, caption))
        for layer in layers:
            strips = [
                figures.side_by_side([figures.enlarge(image), *pair])
                for image, pair in zip(images, heat[layer], strict=True)
            ]
            heading = f"{method} of {layer}: the image, what speaks for the true class, what for the predicted one\n"
            caption = f"{heading}all dark: nothing; true → predicted, its probability ({analysis.weights})"
            titles = [error_title(test, i, data.splits.classes, most=24) for i in drawn]
            report.figure(f"gradcam_{layer}", figures.grid(strips, titles, caption, columns=2))
