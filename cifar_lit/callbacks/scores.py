"""Scores over the test set and class by class."""

from cifar_lit.analysis import scores
from cifar_lit.analysis.predictions import write_csv
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures, tables
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter


class Scores(ReportCallback):
    """Writes accuracy, loss and calibration, overall and class by class, and the prediction for every image.

    Args:
        flip_tta: Whether to report test-time augmentation, too: the mean of the logits of each test image and its
            mirror image (arXiv 2404.00498, section 3.5). It takes one more pass over the test set; everything else
            is about the images as they are. Not for things that change when mirrored, such as digits.

    Attributes:
        FINAL: Names of the final scores in the loggers.
    """

    FINAL = ("test/loss", "test/accuracy", "test/calibration_error", "final_train/loss", "final_train/accuracy")

    def __init__(self, flip_tta: bool = False) -> None:
        self.flip_tta = flip_tta

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write `metrics.json`, the predictions, and tables and figures of classes, confusion and calibration."""
        test, train, flip_tta = results.test, results.train, results.test_flip_tta
        writer.json("metrics", tables.metrics(results))
        final = (test.loss, test.accuracy, scores.calibration(test).error, train.loss, train.accuracy)
        averaged = {"test/accuracy_flip_tta": flip_tta.accuracy} if flip_tta else {}
        writer.scalars({**dict(zip(self.FINAL, final, strict=True)), **averaged})
        for name, predictions, split in (
            ("predictions", test, results.test_images),
            ("predictions_flip_tta", flip_tta, results.test_images),
            ("predictions_train", train, results.data.splits.train),
        ):
            if predictions:
                write_csv(writer.folder / f"{name}.csv", predictions, results.classes, split.files)
        writer.table("class_accuracy", *tables.class_accuracy(results))
        writer.figure("class_accuracy", figures.class_accuracy(results))
        writer.table("confusion", *tables.confusion(results))
        writer.figure("confusion", figures.confusion(results))
        writer.figure("calibration", figures.reliability(results))
