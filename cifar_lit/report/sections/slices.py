"""On which images the network is weak."""

from dataclasses import dataclass

from cifar_lit.analysis.slices import PROPERTIES, Slice
from cifar_lit.report import data_figures
from cifar_lit.report.inline import svg
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options

ENDS = {1: "lowest", 2: "second lowest", 3: "middle", 4: "second highest", 5: "highest"}


@dataclass(frozen=True)
class Slices:
    """What the section shows.

    Attributes:
        slices: All of them; empty if they were not requested, or no property has several values.
        requested: Whether they were.
        verdict: The weak ones in a sentence.
        constant: Properties that are the same for all images.
        figure: Their accuracy, as SVG.
    """

    slices: list[Slice]
    requested: bool
    verdict: str
    constant: list[str]
    figure: str


def section(results: RunResults, options: Options) -> Slices:
    """Describe the slices."""
    if not options.slices:
        return Slices([], False, "", [], "")
    found = results.slices
    constant = [name for name in PROPERTIES if name not in {one.property for one in found}]
    return Slices(found, True, verdict(found), constant, svg(lambda: data_figures.slices(results)) if found else "")


def verdict(slices: list[Slice]) -> str:
    """Return a sentence that names the weak slices."""
    weak = [
        f"{ENDS[one.number]} fifth of {one.property} ({100 * one.accuracy:.1f}%, adjusted p = {one.p_value:.2g})"
        for one in sorted(slices, key=lambda one: one.accuracy)
        if one.weak
    ]
    if not weak:
        return f"None of the {len(slices)} slices is weaker than chance explains."
    return f"Less accurate than chance explains: {'; '.join(weak)}."
