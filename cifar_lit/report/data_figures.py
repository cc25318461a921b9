"""Figures of the test images' properties."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cifar_lit.analysis.slices import PROPERTIES, QUANTILES
from cifar_lit.report.drawing import TRAIN, VAL
from cifar_lit.report.results import RunResults


def slices(results: RunResults) -> Figure:
    """Draw the test accuracy on slices of the images, with 95% intervals; weak slices in orange."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    ink = matplotlib.rcParams["text.color"]
    for axis, name in zip(figure.subplots(2, 2, sharey=True).flat, PROPERTIES, strict=True):
        parts = [one for one in results.slices if one.property == name]
        for one in parts:
            ends = [[max(0.0, one.accuracy - one.interval[0])], [max(0.0, one.interval[1] - one.accuracy)]]
            color = VAL if one.weak else TRAIN
            axis.errorbar(one.number, one.accuracy, ends, color=color, marker="s" if one.weak else "o", capsize=3)
        if not parts:
            axis.text(0.5, 0.5, "the same for all images", ha="center", va="center", transform=axis.transAxes)
        axis.axhline(results.test.accuracy, color=ink, linestyle="--", linewidth=0.8)
        axis.set_xlim(0.5, QUANTILES + 0.5)
        axis.set_xticks(np.arange(1, QUANTILES + 1))
        axis.set_xticklabels(["lowest", *[""] * (QUANTILES - 2), "highest"])
        axis.set_title(f"quintiles of {name}", fontsize=10)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(alpha=0.3)
    figure.supylabel("test accuracy", fontsize=10)
    return figure
