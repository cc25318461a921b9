"""The whole report on one page."""

from cifar_lit.analysis import cam_methods as cams
from cifar_lit.callbacks.options import at_least
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import html as page
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report
from cifar_lit.utils.files import replace_text


class Page(ReportCallback):
    """Writes everything on one page.

    Args:
        listed: How many of the misclassified pictures are on the page, the most wrong first, 0 or more; default: all.
        explained: How many of the most wrong pictures get maps on the page, 0 or more.
        scored: How many of them get the faithfulness scores (ROAD) of their maps, 0 or more. On two cores a picture of
            32 px takes about 2 s.
        method: How the maps are made; see GradCAMPictures.
    """

    def __init__(
        self, listed: int | None = None, explained: int = 100, scored: int = 10, method: str = "GradCAM"
    ) -> None:
        self.listed = None if listed is None else at_least("page.listed", listed, 0)
        self.explained = at_least("page.explained", explained, 0)
        self.scored = at_least("page.scored", scored, 0)
        self.method = cams.check("gradcam.method", method)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the passes over test and training set."""
        _ = analysis.test, analysis.train

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `index.html` and `README.md`."""
        html, readme = page.build(analysis, report.folder, self.listed, self.explained, self.scored, self.method)
        replace_text(report.folder / "index.html", html)
        replace_text(report.folder / "README.md", readme)
