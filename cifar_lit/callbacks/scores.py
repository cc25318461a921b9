"""Scores over the test set and class by class."""

from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures, tables
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter


class Scores(ReportCallback):
    """Writes accuracy, loss and calibration, overall and class by class, and the prediction for every image.

    Args:
        flip_tta: Whether to also report test-time augmentation: the mean of the logits of each test image and its
            mirror image (arXiv 2404.00498, section 3.5). It takes one more pass over the test set; all other
            results are without it. Do not use it for classes that change when mirrored, such as digits.
    """

    def __init__(self, flip_tta: bool = False) -> None:
        self.flip_tta = flip_tta

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write `metrics.json`, the predictions, and tables and figures of classes, confusion and calibration."""
        writer.json("metrics", tables.metrics(results))
        writer.scalars(tables.final_scores(results))
        files = results.test_images.files
        writer.predictions("predictions", results.test, results.classes, files)
        if results.train:
            writer.predictions("predictions_train", results.train, results.classes, results.data.splits.train.files)
        if results.test_flip_tta:
            writer.predictions("predictions_flip_tta", results.test_flip_tta, results.classes, files)
        writer.table("class_accuracy", *tables.class_accuracy(results))
        writer.figure("class_accuracy", figures.class_accuracy(results))
        writer.table("confusion", *tables.confusion(results))
        writer.figure("confusion", figures.confusion(results))
        writer.figure("calibration", figures.reliability(results))
