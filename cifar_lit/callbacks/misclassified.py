"""The misclassified test images."""

from typing import Any

from cifar_lit.analysis.predictions import Predictions
from cifar_lit.callbacks.options import at_least, error_title
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report


class MisclassifiedImages(ReportCallback):
    """Lists all misclassified test images and draws the most wrong ones.

    Args:
        k: How many to draw, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = at_least("misclassified.k", k, 1)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the pass over the test set."""
        _ = analysis.test

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `misclassified.csv`, the highest loss first, and `misclassified.png`."""
        test, classes = analysis.test, analysis.data.splits.classes
        header = ["index", "true", "predicted", "probability_true", "probability_predicted", "loss"]
        rows = [_error_row(test, i, classes) for i in test.errors]
        if files := analysis.data.splits.test.files:
            header.append("file")
            rows = [(*row, files[row[0]]) for row in rows]
        report.table("misclassified", header, rows)
        drawn = test.errors[: self.k]
        images = analysis.data.splits.test.images[test.indices[drawn]]
        heading = f"{len(drawn)} of {len(test.errors)} misclassified test images, the highest loss first\n"
        report.figure(
            "misclassified",
            figures.grid(
                [figures.enlarge(image) for image in images],
                [error_title(test, i, classes) for i in drawn],
                f"{heading}true → predicted, probability of the prediction ({analysis.weights})",
            )
            if len(drawn)
            else figures.sentence(f"No test image is misclassified ({analysis.weights})."),
        )


def _error_row(predictions: Predictions, row: int, classes: tuple[str, ...]) -> tuple[Any, ...]:
    true, predicted = predictions.labels[row], predictions.predicted[row]
    probabilities = predictions.probabilities[row]
    return (
        predictions.indices[row],
        classes[true],
        classes[predicted],
        f"{probabilities[true]:.6g}",
        f"{probabilities[predicted]:.6g}",
        f"{predictions.losses[row]:.6g}",
    )
