"""The misclassified test images."""

from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures, tables
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least


class MisclassifiedImages(ReportCallback):
    """Writes all misclassified test images, the highest loss first, to `misclassified.csv`, and `misclassified.png`.

    Args:
        k: Number of images to draw, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = at_least("misclassified.k", k, 1)

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write table and figure."""
        writer.table("misclassified", *tables.misclassified(results))
        writer.figure("misclassified", figures.misclassified(results, self.k))
