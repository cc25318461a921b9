"""Whether the CAMs can be trusted."""

from dataclasses import dataclass
from functools import partial

from cifar_lit.analysis.evidence import PARTS, Evidence
from cifar_lit.report import evidence_figures, evidence_text
from cifar_lit.report.inline import svg
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options


@dataclass(frozen=True)
class Shown:
    """The evidence, its sentences and its figures as SVG, by part.

    Attributes:
        found: The evidence.
        sentences: What follows, and what does not.
        figures: SVG.
        any: Whether any part was computed.
        choices: How many layers the pointing game could choose from.
    """

    found: Evidence
    sentences: dict[str, str]
    figures: dict[str, str]
    any: bool
    choices: int


def section(results: RunResults, options: Options) -> Shown:
    """Show the evidence."""
    found = results.evidence
    computed = [name for name in PARTS if getattr(found, name)]
    return Shown(
        found,
        {name: say(found) for name, say in evidence_text.SENTENCES.items() if name in computed},
        {name: svg(partial(draw, results)) for name, draw in evidence_figures.FIGURES.items() if name in computed},
        bool(computed),
        len(found.localization.choices(found.method)) if found.localization else 0,
    )
