"""Sample training and test images."""

import numpy as np

from cifar_lit.callbacks.options import at_least
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report


class SampleImages(ReportCallback):
    """Draws training images as the network sees them in its first epoch and test images.

    Args:
        k: How many of each, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = at_least("samples.k", k, 1)

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `train_images.png` and `test_images.png`, drawn at random but always the same ones."""
        data = analysis.data
        for name, dataset, fetch, how in (
            ("train", data.train_dataset, data.samples, "as the network sees them in its first epoch"),
            ("test", data.test_dataset, data.test_dataset.fetch, "(never augmented)"),
        ):
            chosen = np.random.default_rng(0).permutation(len(dataset))[: self.k]
            batch = fetch(chosen)
            images = [figures.enlarge(image) for image in batch.images.numpy()]
            titles = [data.splits.classes[label] for label in batch.labels]
            report.figure(f"{name}_images", figures.grid(images, titles, f"{name} images {how}"))
