"""Test images that are near-duplicates of training images."""

from dataclasses import dataclass
from typing import Any

from cifar_lit.analysis import scores
from cifar_lit.analysis.duplicates import MIN_SIMILARITY
from cifar_lit.report.inline import thumbnail
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options

MAX_SHOWN = 60


@dataclass(frozen=True)
class DuplicatesSection:
    """What the section shows.

    Attributes:
        count: Number of test images that have a near-duplicate; None if they were not searched.
        why_none: The reason for that.
        exact: Number of those whose pixels are equal.
        disagreements: Number of those with another label.
        without: Scores without them; None if there are none, or nothing else.
        items: What is shown of the pairs, those with other labels first.
        min_similarity: The threshold.
    """

    count: int | None
    why_none: str
    exact: int
    disagreements: int
    without: dict[str, Any] | None
    items: list[dict[str, Any]]
    min_similarity: float


def section(results: RunResults, options: Options) -> DuplicatesSection:
    """List the pairs."""
    found = results.duplicates
    if found is None:
        why = "scores.duplicates turns it on"
        why = "it needs the training images of the run" if results.data.test_only else why
        return DuplicatesSection(None, why, 0, 0, None, [], MIN_SIMILARITY)
    test, train = results.test_images, results.data.splits.train
    differ = test.labels[found.test] != train.labels[found.train]
    order = sorted(range(len(found)), key=lambda row: not differ[row])
    predicted = dict(zip(results.test.indices.tolist(), results.test.predicted.tolist(), strict=True))
    items = [
        {
            "test": thumbnail(test.images[found.test[row]]),
            "train": thumbnail(train.images[found.train[row]]),
            "index": int(found.test[row]),
            "train_index": int(found.train[row]),
            "label": int(test.labels[found.test[row]]),
            "train_label": int(train.labels[found.train[row]]),
            "predicted": predicted[int(found.test[row])],
            "similarity": float(found.similarity[row]),
            "mirrored": bool(found.mirrored[row]),
            "exact": bool(found.exact[row]),
        }
        for row in order[:MAX_SHOWN]
    ]
    rest = results.without_duplicates
    without = scores.summary(rest) if rest and len(found) else None
    return DuplicatesSection(len(found), "", int(found.exact.sum()), int(differ.sum()), without, items, MIN_SIMILARITY)
