"""The sections of the page, each a function of a run's results and a template, `templates/section_NAME.html`.

To add one, write its template and list it in SECTIONS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cifar_lit.analysis import faithfulness, scores
from cifar_lit.analysis.gradcam import upscale
from cifar_lit.analysis.label_issues import find_label_issues
from cifar_lit.data.sources import SOURCES
from cifar_lit.models.resnet import LAYERS, Layer
from cifar_lit.report import figures, tables
from cifar_lit.report.inline import encode_cam, svg, thumbnail
from cifar_lit.report.results import RunResults

MAX_LABEL_ISSUES = 20
MAX_CONFUSION_CLASSES = 200  # a confusion matrix of 1,000 classes would have a million cells
BATCH_SIZE = 20  # images whose CAMs are computed together


@dataclass(frozen=True)
class Options:
    """What the page shows; see `HTMLReport`."""

    max_listed: int | None
    num_cams: int
    num_road: int
    method: str


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        title: Its heading.
        make: Returns what its template gets under the section's name, beside `results`, `classes` (their names) and
            what the sections before it got. If either fails, the page shows the reason.
    """

    title: str
    make: Callable[[RunResults, Options], Any]


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


@dataclass(frozen=True)
class Errors:
    """The listed images: first the misclassified ones, then further label issues.

    Attributes:
        items: One per image, as templates/page.js reads it.
        num_errors: How many of them are misclassified.
        label_issues: Which of them have a label that may be incorrect.
        num_cams: How many of them have CAMs.
    """

    items: list[dict[str, Any]]
    num_errors: int
    label_issues: list[int]
    num_cams: int


@dataclass(frozen=True)
class Faithfulness:
    """Scores of CAMs, for the true and the predicted class; CAMs without contrast have none.

    Attributes:
        num_images: How many images have scored CAMs.
        road: ROAD of each CAM of each layer.
        means: Their mean for each layer, and over how many CAMs.
        layer: The layer of the sanity check.
        randomization: Mean rank correlation after each of its stages, and over how many CAMs.
    """

    num_images: int
    road: dict[Layer, list[list[float | None]]]
    means: dict[Layer, list[tuple[float, int]]]
    layer: Layer
    randomization: dict[str, tuple[float, int]]


def _quality(results: RunResults, options: Options) -> Quality:
    splits = {"test": results.test, "test, flip TTA": results.test_flip_tta, "train": results.train}
    return Quality(
        {name: scores.summary(split) for name, split in splits.items() if split},
        list(tables.class_accuracy(results)[1]),
        svg(lambda: figures.reliability(results)),
    )


def _training(results: RunResults, options: Options) -> Training:
    return Training(
        svg(lambda: figures.curves(results)) if results.epochs else "",
        svg(lambda: figures.lr_range(results)) if results.lr_range else "",
    )


def _confusion(results: RunResults, options: Options) -> Confusion:
    table = scores.confusion(results.test)
    counts = table.tolist() if len(table) <= MAX_CONFUSION_CLASSES else []
    return Confusion(counts, scores.confused_pairs(table))


def _errors(results: RunResults, options: Options) -> Errors:
    test, split = results.test, results.test_images
    errors = test.errors[: options.max_listed].tolist()
    issues = find_label_issues(test)[:MAX_LABEL_ISSUES].tolist()
    if options.max_listed is not None:  # no other images than those
        issues = [row for row in issues if row in errors]
    rows = list(dict.fromkeys([*errors, *issues]))
    items = [
        {
            "index": int(test.indices[row]),
            "true": int(test.labels[row]),
            "predicted": int(test.predicted[row]),
            "p": _highest(test.probabilities[row], int(test.labels[row])),
            "loss": round(float(test.losses[row]), 4),
            "margin": round(float(test.margins[row]), 4),
            "image": thumbnail(split.images[test.indices[row]]),
            **({"file": split.files[test.indices[row]]} if split.files else {}),
        }
        for row in rows
    ]
    explained = np.array(rows[: options.num_cams], dtype=np.int64)
    for start in tqdm(range(0, len(explained), BATCH_SIZE), desc="CAMs of the errors", leave=False, disable=None):
        part = explained[start : start + BATCH_SIZE]
        cams = results.cams(part, LAYERS, options.method)
        for position, item in enumerate(items[start : start + len(part)]):
            item["cams"] = {layer: [encode_cam(cam) for cam in cams[layer][position]] for layer in LAYERS}
    return Errors(items, len(errors), [rows.index(row) for row in issues], len(explained))


def _highest(probabilities: NDArray[np.float64], label: int) -> dict[int, float]:
    """Return the probabilities of the ten most probable classes and of the true one."""
    shown = {*np.argsort(-probabilities)[:10].tolist(), label}
    return {row: round(float(probabilities[row]), 4) for row in sorted(shown)}


def _faithfulness(results: RunResults, options: Options) -> Faithfulness:
    test, size = results.test, results.data.image_size
    layer = results.default_layer
    rows = test.errors[: min(options.num_road, options.num_cams)]
    if not len(rows):
        return Faithfulness(0, {}, {}, layer, {})
    images, classes = results.images(rows), test.target_classes(rows)
    cams = results.cams(rows, LAYERS, options.method)
    road = faithfulness.road(
        results.network,
        np.concatenate([images.repeat(2, axis=0)] * len(LAYERS)),
        np.tile(classes.ravel(), len(LAYERS)),
        np.stack([upscale(cam, size) for name in LAYERS for pair in cams[name] for cam in pair]),
    ).reshape(len(LAYERS), len(rows), 2)
    stages = faithfulness.cascading_randomization(results.network, images, classes[:, 1], layer, options.method)
    return Faithfulness(
        len(rows),
        {name: [_rounded(pair) for pair in pairs] for name, pairs in zip(LAYERS, road, strict=True)},
        {name: [_mean(column) for column in pairs.T] for name, pairs in zip(LAYERS, road, strict=True)},
        layer,
        {stage: _mean(correlations) for stage, correlations in stages.items()},
    )


def _rounded(values: NDArray[np.float32]) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 3) for value in values]


def _mean(scores: NDArray[Any]) -> tuple[float, int]:
    """Return the mean of the scores that are not nan, and their number."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else np.nan, len(known)


def _facts(results: RunResults, options: Options) -> dict[str, object]:
    """Return the provenance; of a resumed part, its command and what differs from the earlier parts."""
    data, provenance = results.data, results.provenance
    facts: dict[str, object] = {"recipe": results.name.split("/")[0], "seed": provenance.options.get("seed_everything")}
    facts |= {"weights": results.weights, "parameters": f"{results.parameters:,}"}
    facts["data"] = f"{data.source}, {data.root}" if SOURCES[data.source].uses_root else data.source
    facts |= {"classes": len(results.classes), "image size": f"{data.image_size} px"}
    if not data.test_only:
        facts["training images"] = f"{len(data.train_dataset):,} of {len(data.splits.train):,}"
        facts["held-out images"] = f"{len(data.val_dataset):,}"
        facts["fingerprint of the training set"] = results.fingerprints["train"]
    facts |= {
        "test images": f"{len(results.test):,} of {len(data.splits.test):,}",
        "fingerprint of the test set": results.fingerprints["test"],
        "device of this report": results.network.normalize.mean.device,
        "command of this report": provenance.report_command,
    }
    known = dict(provenance.parts[0])
    for number, part in enumerate(provenance.parts[1:], 2):
        news = {name: value for name, value in part.items() if name == "command" or value != known.get(name)}
        known |= {f"resumed, part {number}, {name}": value for name, value in news.items()}
    return {name: value for name, value in (facts | known).items() if value is not None}


SECTIONS = {
    "quality": Section("How good is it?", _quality),
    "training": Section("How did it train?", _training),
    "confusion": Section("Which classes does it confuse?", _confusion),
    "errors": Section("What does it misclassify?", _errors),
    "faithfulness": Section("Why?", _faithfulness),
    "facts": Section("What exactly ran?", _facts),
}
