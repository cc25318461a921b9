"""Figures of how far the confidence can be trusted."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cifar_lit.analysis.confidence import aurc, risk_coverage
from cifar_lit.report.drawing import TRAIN, VAL
from cifar_lit.report.results import RunResults


def risk_coverage_curve(results: RunResults) -> Figure:
    """Draw the error among the most confident test images over their fraction (arXiv 1705.08500)."""
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axis = figure.subplots()
    coverage = np.arange(1, len(results.test) + 1) / len(results.test)
    axis.plot(coverage, risk_coverage(results.test), color=TRAIN, label=f"as trained, area {aurc(results.test):.4f}")
    if results.scaled:
        label = f"with temperature, area {aurc(results.scaled):.4f}"
        axis.plot(coverage, risk_coverage(results.scaled), color=VAL, linestyle="--", label=label)
    error = 1 - results.test.accuracy
    best = np.maximum(coverage - (1 - error), 0) / coverage  # all errors last
    ink = matplotlib.rcParams["text.color"]
    axis.plot(coverage, best, color=ink, linestyle=":", label=f"all errors last, area {best.mean():.4f}")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, max(0.01, 1.5 * error))  # the first few images would flatten the rest
    axis.set_xlabel("coverage, the most confident images")
    axis.set_ylabel("error among them")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=1)
    return figure
