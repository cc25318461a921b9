"""The test set's features in TensorBoard's Projector."""

import numpy as np

from cifar_lit.analysis import scores as metrics
from cifar_lit.callbacks.options import at_least
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report

THUMBNAIL = 40  # pixels; more would not fit into the one texture that the Projector makes of 10,000


class Projector(ReportCallback):
    """Shows the test set as the network's last layer sees it, in TensorBoard's Projector.

    Args:
        images: How many of them, drawn at random, 0 or more; 0 turns it off.
    """

    def __init__(self, num_images: int = 10_000) -> None:
        self.num_images = at_least("projector.num_images", num_images, 0)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the pass over the test set."""
        _ = analysis.test

    def write(self, analysis: Analysis, report: Report) -> None:
        """Hand the features, reduced to their principal components, with labels and thumbnails to TensorBoard."""
        test, split, classes = analysis.test, analysis.data.splits.test, analysis.data.splits.classes
        chosen = np.sort(np.random.default_rng(0).permutation(len(test))[: self.num_images])
        if test.features is None or len(chosen) < 2 or not report.logs:
            return
        names = np.array(classes)
        true, predicted = names[test.labels[chosen]], names[test.predicted[chosen]]
        right = np.where(true == predicted, "right", "wrong")
        report.embedding(
            "test_features",
            metrics.principal_components(test.features[chosen]),
            ("true", "predicted", "right", "index"),
            list(zip(true, predicted, right, test.indices[chosen], strict=True)),
            figures.thumbnails((split.images[index] for index in test.indices[chosen]), THUMBNAIL),
        )
