"""The misclassified images, with their CAMs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cifar_lit.analysis.gradcam import gradient_cams
from cifar_lit.analysis.label_issues import find_label_issues
from cifar_lit.analysis.neighbors import nearest
from cifar_lit.models.resnet import LAYERS, Layer
from cifar_lit.report.inline import encode_cam, thumbnail
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options

MAX_LABEL_ISSUES = 20
NEIGHBOR_PX = 32
BATCH_SIZE = 20  # images whose CAMs are computed together


@dataclass(frozen=True)
class Errors:
    """The listed images: first the misclassified ones, then further label issues.

    Attributes:
        items: One per image, as templates/page.js reads it.
        num_errors: How many of them are misclassified.
        label_issues: Which of them have a label that may be incorrect.
        num_cams: How many of them have CAMs.
        train: Label and thumbnail of each training image that is a neighbor, by its index.
        num_known: Among how many training images the neighbors were looked up; 0 for none.
    """

    items: list[dict[str, Any]]
    num_errors: int
    label_issues: list[int]
    num_cams: int
    train: dict[int, tuple[int, str]]
    num_known: int


def section(results: RunResults, options: Options) -> Errors:
    """List the misclassified images and label issues, and compute their CAMs."""
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
        for name, cams in _cams(results, part, options.method).items():
            for position, item in enumerate(items[start : start + len(part)]):
                item[name] = {layer: [encode_cam(cam) for cam in cams[layer][position]] for layer in LAYERS}
    train = _add_neighbors(items, explained, results, options.num_neighbors)
    known = len(results.known) if results.known and train else 0
    return Errors(items, len(errors), [rows.index(row) for row in issues], len(explained), train, known)


def _add_neighbors(
    items: list[dict[str, Any]], rows: NDArray[np.int64], results: RunResults, k: int
) -> dict[int, tuple[int, str]]:
    """Add index and cosine of the nearest training images to each item of `rows`; return these images."""
    test, known = results.test.features, results.known
    if test is None or known is None or known.features is None or not k:
        return {}
    train = results.data.splits.train
    found, cosines = nearest(test[rows], known.features, k)
    for item, nearby, similar in zip(items, known.indices[found].tolist(), cosines.tolist(), strict=False):
        item["neighbors"] = [[index, round(cosine, 3)] for index, cosine in zip(nearby, similar, strict=True)]
    shown = np.unique(known.indices[found]).tolist()
    return {index: (int(train.labels[index]), thumbnail(train.images[index], NEIGHBOR_PX)) for index in shown}


def _cams(results: RunResults, rows: NDArray[np.int64], method: str) -> dict[str, dict[Layer, NDArray[np.float32]]]:
    """Return `cams` of the method, and `hires`, HiResCAM beside Grad-CAM from the same passes."""
    if method != "GradCAM":
        return {"cams": results.cams(rows, LAYERS, method)}
    classes, methods = results.test.target_classes(rows), ("GradCAM", "HiResCAM")
    both = gradient_cams(results.network, results.images(rows), classes, LAYERS, methods)
    return dict(zip(("cams", "hires"), both.values(), strict=True))


def _highest(probabilities: NDArray[np.float64], label: int) -> dict[int, float]:
    """Return the probabilities of the ten most probable classes and of the true one."""
    shown = {*np.argsort(-probabilities)[:10].tolist(), label}
    return {row: round(float(probabilities[row]), 4) for row in sorted(shown)}
