"""How good the network is."""

from dataclasses import dataclass
from typing import Any

from cifar_lit.analysis import scores
from cifar_lit.report import figures, tables
from cifar_lit.report.inline import svg
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options


@dataclass(frozen=True)
class Quality:
    """Scores of each split and of each class, and the reliability diagram as SVG."""

    splits: dict[str, dict[str, Any]]
    classes: list[tuple[Any, ...]]
    reliability: str


def section(results: RunResults, options: Options) -> Quality:
    """Score each split and each class."""
    splits = {
        "test": results.test,
        "test, flip TTA": results.test_flip_tta,
        "validation": results.val,
        "train": results.train,
    }
    return Quality(
        {name: scores.summary(split) for name, split in splits.items() if split},
        list(tables.class_accuracy(results)[1]),
        svg(lambda: figures.reliability(results)),
    )
