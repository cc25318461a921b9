"""The report on one page."""

from cifar_lit.analysis import cam_methods
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import html
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections import Options
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least


class HTMLReport(ReportCallback):
    """Writes `index.html`, the run on one page, and `README.md`, its short version.

    Args:
        max_listed: Number of misclassified images on the page, the highest loss first, 0 or more; default: all.
        num_cams: Number of those images that get CAMs, 0 or more.
        method: How the CAMs are computed; see GradCAMGrid.
    """

    def __init__(self, max_listed: int | None = None, num_cams: int = 100, method: str = "GradCAM") -> None:
        self.options = Options(
            None if max_listed is None else at_least("page.max_listed", max_listed, 0),
            at_least("page.num_cams", num_cams, 0),
            cam_methods.check("gradcam.method", method),
        )

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write both files."""
        page, readme = html.build(results, self.options, writer)
        writer.text("index.html", page)
        writer.text("README.md", readme)
