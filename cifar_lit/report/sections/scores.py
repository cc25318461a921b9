"""How good the network is, how it trained, and which classes it confuses."""

from dataclasses import dataclass
from typing import Any

from cifar_lit.analysis import scores
from cifar_lit.report import figures, tables
from cifar_lit.report.inline import svg
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options

MAX_CONFUSION_CLASSES = 200  # a confusion matrix of 1,000 classes would have a million cells


@dataclass(frozen=True)
class Quality:
    """Scores of each split and of each class, and the reliability diagram as SVG."""

    splits: dict[str, dict[str, Any]]
    classes: list[tuple[Any, ...]]
    reliability: str


@dataclass(frozen=True)
class Training:
    """Curves of the training, as SVG."""

    curves: str
    lr_range: str


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix, empty if it is too large, and the most frequent confusions."""

    counts: list[list[int]]
    pairs: list[tuple[int, int, int]]


def quality(results: RunResults, options: Options) -> Quality:
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


def training(results: RunResults, options: Options) -> Training:
    """Draw the curves."""
    return Training(
        svg(lambda: figures.curves(results)) if results.epochs else "",
        svg(lambda: figures.lr_range(results)) if results.lr_range else "",
    )


def confusion(results: RunResults, options: Options) -> Confusion:
    """Count confusions."""
    table = scores.confusion(results.test)
    counts = table.tolist() if len(table) <= MAX_CONFUSION_CLASSES else []
    return Confusion(counts, scores.confused_pairs(table))
