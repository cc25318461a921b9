"""How the network trained."""

from dataclasses import dataclass

from cifar_lit.report import figures
from cifar_lit.report.inline import svg
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options


@dataclass(frozen=True)
class Training:
    """Curves of the training, as SVG."""

    curves: str
    lr_range: str


def section(results: RunResults, options: Options) -> Training:
    """Draw the curves."""
    return Training(
        svg(lambda: figures.curves(results)) if results.epochs else "",
        svg(lambda: figures.lr_range(results)) if results.lr_range else "",
    )
