"""Which classes the network confuses."""

from dataclasses import dataclass

from cifar_lit.analysis import scores
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options

MAX_CLASSES = 200  # a confusion matrix of 1,000 classes would have a million cells


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix, empty if it is too large, and the most frequent confusions."""

    counts: list[list[int]]
    pairs: list[tuple[int, int, int]]


def section(results: RunResults, options: Options) -> Confusion:
    """Count confusions."""
    table = scores.confusion(results.test)
    counts = table.tolist() if len(table) <= MAX_CLASSES else []
    return Confusion(counts, scores.confused_pairs(table))
