"""Scores over the test set and class by class."""

from cifar_lit.analysis import scores as metrics
from cifar_lit.analysis.predictions import write_csv
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report


class Scores(ReportCallback):
    """Writes how good the network is, overall and class by class, and what it says about every test image.

    Args:
        flip_tta: Whether to tell, too, how good the mean of what it says about each test image and about its
            mirror image is (arXiv 2404.00498, section 3.5); takes one more pass over the test set. Everything else
            goes by the images as they are. For things that may as well be the other way round: not for digits.

    Attributes:
        FINAL: Names of the final figures in the loggers.
    """

    FINAL = ("test/loss", "test/accuracy", "test/calibration_error", "final_train/loss", "final_train/accuracy")

    def __init__(self, flip_tta: bool = False) -> None:
        self.flip_tta = flip_tta

    def compute(self, analysis: Analysis) -> None:
        """Ask for the passes over test and training set."""
        _ = analysis.test, analysis.train
        if self.flip_tta:
            analysis.compute_flip_tta()

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `metrics.json`, `predictions.csv`, and the class-wise, confusion and calibration tables and figures."""
        test, train, classes = analysis.test, analysis.train, analysis.data.splits.classes
        flipped = analysis.flip_tta
        splits = {"test": test, **({"test_flip_tta": flipped} if flipped else {}), "train": train}
        table, calibration = metrics.confusion(test), metrics.calibration(test)
        by_class = metrics.class_scores(table)
        images = analysis.data.splits
        report.json(
            "metrics",
            {
                "weights": analysis.weights,
                "parameters": sum(parameter.numel() for parameter in analysis.net.parameters()),
                "fingerprints": {"train": images.train.fingerprint, "test": images.test.fingerprint},
                **{name: metrics.summary(one) for name, one in splits.items()},
            },
        )
        final_figures = (test.loss, test.accuracy, calibration.error, train.loss, train.accuracy)
        averaged = {"test/accuracy_flip_tta": flipped.accuracy} if flipped else {}
        report.scalars({**dict(zip(self.FINAL, final_figures, strict=True)), **averaged})
        write_csv(report.folder / "predictions.csv", test, classes, images.test.files)
        rows = zip(classes, table.sum(axis=1), by_class.recall, by_class.precision, by_class.f1, strict=True)
        report.table("class_accuracy", ("class", "test_images", "accuracy", "precision", "f1"), rows)
        report.figure("class_accuracy", figures.class_bars(classes, by_class.recall, test.accuracy))
        counts = [(name, *row) for name, row in zip(classes, table, strict=True)]
        report.table("confusion", ("true \\ predicted", *classes), counts)
        report.figure("confusion", figures.confusion(table, classes))
        report.figure(
            "calibration",
            figures.reliability(calibration.count, calibration.confidence, calibration.accuracy, calibration.error),
        )
