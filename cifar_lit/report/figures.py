"""The figures of a run: each is a function of its results.

In a notebook, `figures.misclassified(RunResults.load(RUN), k=20)` is all that is needed.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from cifar_lit.analysis import scores
from cifar_lit.analysis.gradcam import upscale, why_flat
from cifar_lit.report import drawing, fonts
from cifar_lit.report.drawing import TRAIN, VAL
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.report.results import RunResults

Panel = Literal["image", "true", "predicted"]
MIXING = {"MixUp": "mixup_alpha", "CutMix": "cutmix_alpha"}  # options of ImageClassifier
CAPTION = "true → predicted, probability of the prediction"


def train_samples(results: RunResults, k: int = 10) -> Figure:
    """Draw `k` random training images as the network sees them in its first epoch."""
    batch = results.data.samples(_sample(len(results.data.train_dataset), k))
    heading = "training images as the network sees them in its first epoch"
    return _labelled(results, batch.images.numpy(), batch.labels.numpy(), heading)


def test_samples(results: RunResults, k: int = 10) -> Figure:
    """Draw `k` random test images."""
    chosen = _sample(len(results.test_images), k)
    images, labels = results.test_images.images[chosen], results.test_images.labels[chosen]
    return _labelled(results, images, labels, "test images (never augmented)")


def misclassified(results: ErrorResults, k: int = 10) -> Figure:
    """Draw the `k` misclassified test images with the highest loss."""
    rows = results.test.errors[:k]
    if not len(rows):
        return drawing.sentence(f"No test image is misclassified ({results.weights}).")
    return drawing.grid(
        [drawing.enlarge(image) for image in results.images(rows)],
        [_title(results, row) for row in rows],
        f"{len(rows)} of {len(results.test.errors)} misclassified test images, the highest loss first\n"
        f"{CAPTION} ({results.weights})",
    )


def gradcam(
    results: ErrorResults,
    k: int = 10,
    panels: Sequence[Panel] = ("image", "true", "predicted"),
    layer: str | None = None,
    method: str = "GradCAM",
) -> Figure:
    """Draw the same images as `misclassified` with their CAMs laid over them.

    Args:
        results: The run.
        k: Number of images.
        panels: What to draw of each, side by side: the image, the evidence for the true and for the predicted class.
        layer: Default: `results.default_layer`.
        method: As in `activation_maps`.
    """
    rows = results.test.errors[:k]
    if not len(rows):
        return drawing.sentence(f"No error to explain ({results.weights}).")
    layer = layer or results.default_layer
    cams = results.cams(rows, [layer], method)[layer]
    tiles, titles = [], []
    for row, image, pair in zip(rows, results.images(rows), cams, strict=True):
        true, predicted = (drawing.overlay(image, upscale(cam, *image.shape[:2])) for cam in pair)
        drawn = {"image": drawing.enlarge(image), "true": true, "predicted": predicted}
        tiles.append(drawing.side_by_side([drawn[panel] for panel in panels]))
        flat = {panel: why_flat(cam) for panel, cam in zip(("true", "predicted"), pair, strict=True) if panel in panels}
        title = _title(results, row, 12 if len(panels) == 1 else 24)
        titles.append(f"{title}\n{_flat_caption(flat)}".rstrip())
    shown = ", ".join(panel if panel == "image" else f"evidence for the {panel} class" for panel in panels)
    return drawing.grid(
        tiles,
        titles,
        f"{method_name(method)} of {layer}: {shown}\n{CAPTION} ({results.weights})",
        columns=5 if len(panels) == 1 else 2,
    )


def curves(results: RunResults) -> Figure:
    """Draw loss, accuracy and learning rate over epochs."""
    rows, options = results.epochs, results.provenance.options.get("model", {})
    mixed = [f"with {name}" for name, key in MIXING.items() if options.get(key)]
    smoothing = options.get("label_smoothing")
    regularized = {"loss": [*mixed, *([f"with label smoothing {smoothing:g}"] if smoothing else [])], "accuracy": mixed}
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, accuracy, lr = figure.subplots(1, 3)
    for split, color, marker in (("train", TRAIN, "o"), ("val", VAL, "s")):
        for axis, name in ((loss, "loss"), (accuracy, "accuracy")):
            points = [(row.epoch, getattr(row, f"{split}_{name}")) for row in rows]
            label = ", ".join([split, *(regularized[name] if split == "train" else [])])
            drawing.line(axis, points, color, marker, label)
    points = [(row.epoch, row.lr) for row in rows]
    drawing.line(lr, points, matplotlib.rcParams["text.color"], "o", "at the end of the epoch")
    for axis, title in ((loss, "loss"), (accuracy, "accuracy"), (lr, "learning rate")):
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(rows) == 1:
            axis.set_xlim(0.5, 1.5)  # around the epoch, so that the axis has an integer tick
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    losses = [value for row in rows for value in (row.train_loss, row.val_loss) if value]
    if losses and max(losses) > 20 * min(losses):  # one bad epoch must not flatten all others
        loss.set_yscale("log")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    lr.yaxis.set_major_formatter("{x:.3g}")  # without a power of ten beside the title
    return figure


def lr_range(results: RunResults) -> Figure:
    """Draw the loss over the learning rates of the range test, and the suggested learning rate."""
    curve = results.lr_range
    assert curve is not None
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(curve.lrs, curve.losses, color=TRAIN, marker="o", markersize=3, linewidth=0.5)
    axis.axvline(curve.suggested, color=VAL, linestyle="--", label=f"suggested: {curve.suggested:.3g}")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss of each step")
    top = 2 * float(np.median(curve.losses[: max(1, len(curve.losses) // 4)]))
    if np.nanmax(curve.losses) > top:  # a diverging loss would flatten the rest
        axis.set_ylim(0, top)
    axis.set_title("learning rate range test")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def class_accuracy(results: RunResults) -> Figure:
    """Draw the test accuracy of each class, the best at the top."""
    accuracy = scores.class_scores(scores.confusion(results.test)).recall
    order = np.argsort(np.nan_to_num(accuracy, nan=-1.0), kind="stable")
    figure = Figure(figsize=(6, 0.9 + 0.28 * len(order)), layout="constrained")
    axis = figure.subplots()
    axis.barh(range(len(order)), np.nan_to_num(accuracy[order]), color=TRAIN)
    axis.set_yticks(range(len(order)), **_tick_labels(results, order))
    for position, value in enumerate(accuracy[order]):  # in a column, clear of the line
        axis.text(1.02, position, "no images" if np.isnan(value) else f"{value:.1%}", va="center", fontsize=8)
    overall = results.test.accuracy
    axis.axvline(overall, color=VAL, linestyle="--", label=f"all classes: {overall:.1%}")
    axis.set_xlim(0, 1.2)
    axis.set_ylim(-0.6, len(order) - 0.4)  # without the margin of 5%, many rows for many classes
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_title("test accuracy of each class")
    figure.legend(fontsize=8, loc="outside lower center")
    return figure


def confusion(results: RunResults) -> Figure:
    """Draw the confusion matrix, true classes in rows, predicted ones in columns, each row shaded by fractions."""
    table = scores.confusion(results.test)
    size = max(4.5, 1.5 + 0.5 * min(len(table), 40))
    figure = Figure(figsize=(size, size), layout="constrained")
    axis = figure.subplots()
    fractions = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    named, fontsize = len(table) <= 40, max(10, size)  # legible where a large figure is shrunk
    figure.suptitle("test images: true class (row), predicted class (column)", fontsize=fontsize)
    axis.set_ylabel("true" if named else "true, row in confusion.csv from 0", fontsize=fontsize)
    axis.set_xlabel("predicted" if named else "predicted, column in confusion.csv from 0", fontsize=fontsize)
    axis.tick_params(labelsize=fontsize)
    if named:
        labels = _tick_labels(results, range(len(table)))
        axis.set_xticks(range(len(table)), **labels, rotation=90, fontsize=8)
        axis.set_yticks(range(len(table)), **labels, fontsize=8)
    if len(table) <= 20:
        for row, column in zip(*np.nonzero(table), strict=True):
            color = "white" if fractions[row, column] > 0.5 else "black"
            axis.text(column, row, f"{table[row, column]}", ha="center", va="center", fontsize=7, color=color)
    return figure


def reliability(results: RunResults) -> Figure:
    """Draw accuracy over confidence, and how many images have which confidence (arXiv 1706.04599, figure 1)."""
    bins = scores.calibration(results.test)
    figure = Figure(figsize=(5, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(bins.count) + 1)
    bar = {"width": edges[1], "align": "edge", "color": TRAIN, "edgecolor": "white"}
    diagonal = {"color": matplotlib.rcParams["text.color"], "linestyle": "--", "label": "perfect calibration"}
    upper.plot([0, 1], [0, 1], **diagonal)
    upper.bar(edges[:-1], np.nan_to_num(bins.accuracy), label="accuracy", **bar)
    points = {"color": VAL, "marker": "o", "markersize": 4, "linestyle": "", "label": "at the mean confidence"}
    upper.plot(bins.confidence, bins.accuracy, **points)
    upper.set_ylabel("accuracy")
    upper.set_title(f"expected calibration error {bins.error:.1%}", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)  # inside it would cover the bars
    lower.bar(edges[:-1], bins.count, **bar)
    lower.set_ylabel("images")
    lower.set_xlabel("confidence, the probability of the prediction")
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def method_name(method: str) -> str:
    """Return the name of a CAM method for headings."""
    return "Grad-CAM" if method == "GradCAM" else method


def _title(results: ErrorResults, row: int, max_length: int = 12) -> str:
    true, predicted = results.test.labels[row], results.test.predicted[row]
    names = fonts.class_names(results.classes, max_length)
    return f"{names[true]} → {names[predicted]}\n{results.test.probabilities[row, predicted]:.0%}"


def _flat_caption(flat: dict[str, str]) -> str:
    """Return a line for a title that says which CAMs are flat and why; empty if none is."""
    if len(set(flat.values())) == 1:  # the same for all
        return next(iter(flat.values()))
    return "; ".join(f"{panel}: {reason}" for panel, reason in flat.items() if reason)


def _sample(size: int, k: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(size)[:k]


def _labelled(results: RunResults, images: drawing.Pixels, labels: NDArray[np.int64], heading: str) -> Figure:
    names = fonts.class_names(results.classes, 24)
    return drawing.grid([drawing.enlarge(image) for image in images], [names[label] for label in labels], heading)


def _tick_labels(results: RunResults, classes: Iterable[int]) -> dict[str, Any]:
    """Return arguments of `set_xticks` for the names of classes."""
    names = fonts.class_names(results.classes, 24)
    return {"labels": [drawing.escape(names[i]) for i in classes], "fontfamily": fonts.families("".join(names))}
