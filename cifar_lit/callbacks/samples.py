"""Sample training and test images."""

from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least


class SampleImages(ReportCallback):
    """Writes `train_images.png`, as the network sees them in its first epoch, and `test_images.png`.

    The images are the same ones every time.

    Args:
        k: Images of each, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = at_least("samples.k", k, 1)

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write both figures."""
        if not results.data.test_only:
            writer.figure("train_images", figures.train_samples(results, self.k))
        writer.figure("test_images", figures.test_samples(results, self.k))
