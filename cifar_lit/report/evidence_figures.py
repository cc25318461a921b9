"""Figures of the evidence for the CAMs, each a function of a run's results."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cifar_lit.analysis.bootstrap import Estimate
from cifar_lit.analysis.interventions import AREAS, KINDS
from cifar_lit.analysis.localization import BLOB, CHANCE
from cifar_lit.models.resnet import LAYERS
from cifar_lit.report.drawing import TRAIN, VAL
from cifar_lit.report.figures import method_name
from cifar_lit.report.inline import svg
from cifar_lit.report.results import RunResults

THIRD = "#228833"  # of Paul Tol's schemes, as the other two


def localization(results: RunResults) -> Figure:
    """Draw the scores of the pointing game: layers on the axis, a color for each method, with 95% intervals."""
    found = results.evidence.localization
    assert found
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    methods = [method for method in found.scores if method != BLOB]
    for i, (method, color, marker) in enumerate(zip(methods, (TRAIN, VAL, THIRD), "osD", strict=True)):
        scores = [found.scores[method].get(layer) for layer in LAYERS]
        positions = np.arange(len(LAYERS)) + 0.16 * (i - 1)  # side by side
        _with_intervals(axis, positions, scores, color, marker, method_name(method), linestyle="")
    ink = matplotlib.rcParams["text.color"]
    axis.axhline(CHANCE, color=ink, linestyle="--", label=f"chance, and {BLOB}")
    for position, layer in enumerate(LAYERS):
        if layer not in found.scores[methods[0]]:
            axis.text(position, 0.5, "not scored:\n1x1", ha="center", va="center", fontsize=8, color=ink)
    axis.set_xticks(range(len(LAYERS)), LAYERS)
    axis.set_xlim(-0.5, len(LAYERS) - 0.5)
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_ylabel("positive CAM in the correct cell")
    axis.set_title(f"pointing game, {found.num_mosaics} mosaics, 95% intervals", fontsize=10)
    axis.grid(alpha=0.3, axis="y")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    return figure


def interventions(results: RunResults) -> Figure:
    """Draw how many errors change to the true class over the blurred area, beside the same area at random positions."""
    found = results.evidence.interventions
    assert found
    figure = Figure(figsize=(5.6, 4.1), layout="constrained")
    axis = figure.subplots()
    areas = np.array(AREAS)
    for i, (kind, color, marker) in enumerate(zip(KINDS, (TRAIN, VAL), "os", strict=True)):
        shift = 1.03 ** (2 * i - 1)  # side by side
        _with_intervals(axis, areas * shift, found.turned[kind], color, marker, kind)
        _with_intervals(
            axis,
            areas * shift**2,
            found.random[kind],
            color,
            marker,
            "same shape, random position",
            "--",
            fillstyle="none",
        )
    axis.set_xscale("log")
    axis.set_xticks(areas, [f"{area:.0%}" for area in areas])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("area that is blurred")
    axis.set_ylabel("changed to the true class")
    axis.set_title(f"{found.num_images} misclassified images, 95% intervals", fontsize=10)
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


def _with_intervals(
    axis: Any,
    positions: Any,
    estimates: Sequence[Estimate | None],
    color: str,
    marker: str,
    label: str,
    linestyle: str = "-",
    **options: Any,
) -> None:
    """Plot the estimates that are known, with their intervals."""
    known = [(x, one) for x, one in zip(positions, estimates, strict=True) if one]
    if known:
        x, y = [x for x, _ in known], [one.value for _, one in known]
        ends = [[max(0, one.value - one.low) for _, one in known], [max(0, one.high - one.value) for _, one in known]]
        style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1, "capsize": 2}
        axis.errorbar(x, y, yerr=ends, linestyle=linestyle, label=label, **style, **options)


FIGURES: dict[str, Callable[[RunResults], Figure]] = {"localization": localization, "interventions": interventions}


def drawings(runs: Sequence[RunResults]) -> dict[str, list[tuple[str, str]]]:
    """Return for each figure the name and the SVG of each run that has it."""
    return {
        name: [(run.name, svg(partial(draw, run))) for run in runs if getattr(run.evidence, name)]
        for name, draw in FIGURES.items()
    }
