"""How far the confidence can be trusted."""

from dataclasses import dataclass, replace

from cifar_lit.analysis.temperature import why_none
from cifar_lit.models.temperature import Temperature
from cifar_lit.report import confidence_figures, figures
from cifar_lit.report.inline import svg
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options


@dataclass(frozen=True)
class ConfidenceSection:
    """What the section shows.

    Attributes:
        temperature: None if there is none.
        why_none: The reason for that.
        fitted_here: Whether it was fitted to validation images of this report; otherwise it was stored before.
        selected: Whether the best epoch was selected on the same images.
        reliability: Reliability diagram with the temperature, as SVG; empty without.
        risk_coverage: Risk-coverage curve, as SVG.
    """

    temperature: Temperature | None
    why_none: str
    fitted_here: bool
    selected: bool
    reliability: str
    risk_coverage: str


def section(results: RunResults, options: Options) -> ConfidenceSection:
    """Draw the figures; the numbers are those of `results.confidence`."""
    scaled = results.scaled
    return ConfidenceSection(
        results.temperature,
        _why_none(results),
        results.val is not None,
        results.weights.startswith("best"),
        svg(lambda: figures.reliability(replace(results, test=scaled))) if scaled else "",
        svg(lambda: confidence_figures.risk_coverage_curve(results)),
    )


def _why_none(results: RunResults) -> str:
    if results.val is None and results.data.test_only:
        return (
            "none is stored beside the checkpoint for these weights, or scores.temperature is false; evaluate the run "
            "on its own data first"
        )
    if results.val is None and results.data.val_size:
        return "the validation images were not evaluated (scores.temperature, trainer.limit_val_batches)"
    return why_none(results.val)
