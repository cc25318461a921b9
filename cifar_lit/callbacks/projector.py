"""The test images' features in TensorBoard's Projector."""

import numpy as np

from cifar_lit.analysis import scores
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report.drawing import thumbnails
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least

THUMBNAIL_PX = 40  # 10,000 larger ones would not fit into the Projector's single texture


class Projector(ReportCallback):
    """Logs the input of the network's last layer for the test images, reduced by principal components.

    Args:
        num_images: Number of images, drawn at random; 0 turns it off.
    """

    def __init__(self, num_images: int = 10_000) -> None:
        self.num_images = at_least("projector.num_images", num_images, 0)

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Log vectors, labels and thumbnails."""
        test, split = results.test, results.test_images
        chosen = np.sort(np.random.default_rng(0).permutation(len(test))[: self.num_images])
        if test.features is None or len(chosen) < 2 or not writer.tensorboards:
            return
        names = np.array(results.classes)
        true, predicted = names[test.labels[chosen]], names[test.predicted[chosen]]
        correct = np.where(true == predicted, "correct", "misclassified")
        writer.embedding(
            "test_features",
            scores.principal_components(test.features[chosen]),
            ("true", "predicted", "correct", "index"),
            list(zip(true, predicted, correct, test.indices[chosen], strict=True)),
            thumbnails((split.images[index] for index in test.indices[chosen]), THUMBNAIL_PX),
        )
