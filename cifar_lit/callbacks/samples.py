"""Sample training and test images."""

import numpy as np

from cifar_lit.callbacks.options import at_least
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report


class SamplePictures(ReportCallback):
    """Draws training pictures as the network sees them in its first epoch and test pictures.

    Args:
        k: How many of each, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = at_least("samples.k", k, 1)

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `train_pictures.png` and `test_pictures.png`, drawn at random but always the same ones."""
        data = analysis.data
        for name, dataset, fetch, how in (
            ("train", data.train_dataset, data.samples, "as the network sees them in its first epoch"),
            ("test", data.test_dataset, data.test_dataset.fetch, "(never augmented)"),
        ):
            chosen = np.random.default_rng(0).permutation(len(dataset))[: self.k]
            batch = fetch(chosen)
            pictures = [figures.enlarge(image) for image in batch.images.numpy()]
            titles = [data.pictures.classes[label] for label in batch.labels]
            report.figure(f"{name}_pictures", figures.grid(pictures, titles, f"{name} pictures {how}"))
