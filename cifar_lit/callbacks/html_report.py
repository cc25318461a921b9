"""The report on one page."""

from cifar_lit.analysis import cam_methods
from cifar_lit.callbacks.evaluation import Needs
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import html
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections import Options
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least


class HTMLReport(ReportCallback):
    """Writes `index.html`, the run on one page, and `README.md`, its short version.

    Args:
        max_listed: Misclassified images to list, highest loss first, 0 or more; null: all.
        num_cams: How many get CAMs.
        method: How the CAMs are computed; see GradCAMGrid.
        slices: Whether to show the accuracy on slices of the test images; see Scores.
        num_neighbors: Nearest training images shown with each image that has CAMs, by the cosine of the last layer's
            features, 0 or more.
        num_neighbor_images: Training images, stratified by class, among which they are looked up, in one more pass of
            the network; 0 turns them off.
    """

    def __init__(
        self,
        max_listed: int | None = 1500,
        num_cams: int = 100,
        method: str = "GradCAM",
        slices: bool = True,
        num_neighbors: int = 5,
        num_neighbor_images: int = 10_000,
    ) -> None:
        self.options = Options(
            None if max_listed is None else at_least("page.max_listed", max_listed, 0),
            at_least("page.num_cams", num_cams, 0),
            cam_methods.check("gradcam.method", method),
            slices,
            at_least("page.num_neighbors", num_neighbors, 0),
        )
        looked_up = at_least("page.num_neighbor_images", num_neighbor_images, 0)
        self.needs = Needs(num_neighbor_images=looked_up if num_neighbors and num_cams else 0)

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write both files."""
        page, readme = html.build(results, self.options, writer)
        writer.text("index.html", page)
        writer.text("README.md", readme)
