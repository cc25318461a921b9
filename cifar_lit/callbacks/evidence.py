"""What says that the CAMs can be trusted."""

from typing import Literal

from cifar_lit.analysis import cam_methods
from cifar_lit.analysis.evidence import NUMBERS, Plan
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import evidence_figures, evidence_text
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import at_least


class Evidence(ReportCallback):
    """Tests the CAMs where the correct answer is known, and against null maps.

    Writes `evidence.json` and figures, and logs the scores of the explained layer. It takes minutes on
    a CPU. A number of 0 turns a part off.

    Args:
        num_mosaics: Mosaics of four test images for the pointing game (arXiv 2205.10435).
        num_removed: Random test images for ROAD (arXiv 2202.00449), against null maps.
        num_randomized: Random test images for the sanity checks (arXiv 1810.03292, 2401.06465).
        num_replaced: Random misclassified images whose evidence for a class is blurred.
        method: How CAMs are computed; see GradCAMGrid.
        report: `quick` turns all parts off.
    """

    def __init__(
        self,
        num_mosaics: int = 200,
        num_removed: int = 200,
        num_randomized: int = 100,
        num_replaced: int = 100,
        method: str = "GradCAM",
        report: Literal["quick", "full"] = "full",
    ) -> None:
        numbers = dict(zip(NUMBERS.values(), (num_mosaics, num_removed, num_randomized, num_replaced), strict=True))
        numbers = {name: at_least(f"evidence.{name}", number, 0) for name, number in numbers.items()}
        method = cam_methods.check("gradcam.method", method)
        self.plan = Plan(**(numbers if report == "full" else {}), method=method)

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write the numbers and figures; parts that failed are recorded."""
        evidence = results.evidence
        for name, error in evidence.errors.items():
            writer.record_failure(f"Evidence ({name})", error)
        if evidence.layer:
            writer.json("evidence", evidence.to_dict())
            values = evidence_text.scores(evidence)
            writer.scalars({f"evidence/{key}": value.value for key, value in values.items()})
        for name, draw in evidence_figures.FIGURES.items():
            if getattr(evidence, name):
                writer.figure(name, draw(results))
