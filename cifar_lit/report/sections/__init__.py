"""The sections of the page, each a function of a run's results and a template, `templates/section_NAME.html`.

To add one, write its template and list it in SECTIONS.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from cifar_lit.report.results import RunResults
from cifar_lit.report.sections import (
    confidence,
    confusion,
    duplicates,
    errors,
    evidence,
    facts,
    quality,
    slices,
    training,
)
from cifar_lit.report.sections.options import Options


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        title: Its heading.
        make: Returns what its template gets under the section's name, beside `results`, `classes` (their names) and
            what the sections before it got. If either fails, the page shows the reason.
    """

    title: str
    make: Callable[[RunResults, Options], Any]


SECTIONS = {
    "quality": Section("How good is it?", quality.section),
    "confidence": Section("How far can its confidence be trusted?", confidence.section),
    "training": Section("How did it train?", training.section),
    "confusion": Section("Which classes does it confuse?", confusion.section),
    "slices": Section("On which images is it weak?", slices.section),
    "duplicates": Section("Were test images among the training images?", duplicates.section),
    "errors": Section("What does it misclassify?", errors.section),
    "evidence": Section("Why?", evidence.section),
    "facts": Section("What exactly ran?", facts.section),
}

__all__ = ["SECTIONS", "Options", "Section"]
