"""The whole report on one page."""

from cifar_lit.analysis import cam_methods as cams
from cifar_lit.callbacks.options import at_least
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import html as page
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report
from cifar_lit.utils.files import atomic_write_text


class Page(ReportCallback):
    """Writes everything on one page.

    Args:
        listed: How many of the misclassified images are on the page, the most wrong first, 0 or more; default: all.
        explained: How many of the most wrong images get maps on the page, 0 or more.
        scored: How many of them get the faithfulness scores (ROAD) of their maps, 0 or more. On two cores a image of
            32 px takes about 2 s.
        method: How the maps are made; see GradCAMGrid.
    """

    def __init__(
        self, max_listed: int | None = None, num_cams: int = 100, num_road: int = 10, method: str = "GradCAM"
    ) -> None:
        self.max_listed = None if max_listed is None else at_least("page.max_listed", max_listed, 0)
        self.num_cams = at_least("page.num_cams", num_cams, 0)
        self.num_road = at_least("page.num_road", num_road, 0)
        self.method = cams.check("gradcam.method", method)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the passes over test and training set."""
        _ = analysis.test, analysis.train

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `index.html` and `README.md`."""
        html, readme = page.build(analysis, report.folder, self.max_listed, self.num_cams, self.num_road, self.method)
        atomic_write_text(report.folder / "index.html", html)
        atomic_write_text(report.folder / "README.md", readme)
