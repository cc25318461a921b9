"""The tables and numbers of a run: each is a function of its results."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

from cifar_lit.analysis import scores
from cifar_lit.analysis.confidence import aurc, risk_coverage
from cifar_lit.report.epochs import EpochRow
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.report.results import RunResults

Table = tuple[list[str], Iterable[tuple[Any, ...]]]  # header and rows
FINAL_SCORES = ("test/accuracy", "test/loss", "test/calibration_error", "final_train/accuracy", "final_train/loss")


def final_scores(results: RunResults) -> dict[str, float]:
    """Return what the loggers get, by the names in FINAL_SCORES; also scores with flip TTA or a temperature if any."""
    test, train = results.test, results.train
    values = (
        test.accuracy,
        test.loss,
        scores.calibration(test).error,
        *((train.accuracy, train.loss) if train else ()),
    )
    final = dict(zip(FINAL_SCORES, values, strict=False))
    if results.test_flip_tta:
        final["test/accuracy_flip_tta"] = results.test_flip_tta.accuracy
    if results.scaled and results.temperature:
        final["temperature"] = results.temperature.value
        final["test/loss_scaled"] = results.scaled.loss
        final["test/calibration_error_scaled"] = scores.calibration(results.scaled).error
    return final | {"test/aurc": aurc(results.test)}


def metrics(results: RunResults) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    splits = {"test": results.test, "test_flip_tta": results.test_flip_tta, "val": results.val, "train": results.train}
    return {
        "weights": results.weights,
        "parameters": results.parameters,
        "fingerprints": results.fingerprints,
        **{name: scores.summary(predictions) for name, predictions in splits.items() if predictions},
        "temperature": asdict(results.temperature) if results.temperature else None,
        "confidence": asdict(results.confidence),
        "near_duplicates": None if results.duplicates is None else len(results.duplicates),
        "without_near_duplicates": scores.summary(rest) if (rest := results.without_duplicates) else None,
    }


def slices(results: RunResults) -> Table:
    """Return the accuracy on slices of the test images; see `Slice`."""
    rows = [(*vars(one).values(),) for one in results.slices]
    header = ["property", "fifth", "low", "high", "images", "accuracy", "accuracy_low", "accuracy_high", "adjusted_p"]
    return [*header, "weak"], [(*row[:6], *row[6], *row[7:]) for row in rows]


def near_duplicates(results: RunResults) -> Table:
    """Return the test images that have a near-duplicate among the training images, the most similar first."""
    found, test, train = results.duplicates, results.test_images, results.data.splits.train
    assert found is not None
    predicted = dict(zip(results.test.indices.tolist(), results.test.predicted.tolist(), strict=True))
    rows = [
        (
            first,
            second,
            f"{similarity:.6f}",
            bool(mirrored),
            bool(exact),
            results.classes[test.labels[first]],
            results.classes[train.labels[second]],
            results.classes[predicted[first]],
            *([test.files[first], train.files[second]] if test.files and train.files else []),
        )
        for first, second, similarity, mirrored, exact in zip(
            found.test.tolist(), found.train.tolist(), found.similarity, found.mirrored, found.exact, strict=True
        )
    ]
    header = ["test_index", "train_index", "similarity", "mirrored", "exact", "true", "train_label", "predicted"]
    return [*header, *(["test_file", "train_file"] if test.files and train.files else [])], rows


def risk_coverages(results: RunResults) -> Table:
    """Return the error among the most confident test images for each number of them, before and after scaling."""
    curves = [risk_coverage(one) for one in (results.test, results.scaled) if one]
    header = ["images", "coverage", "error", "error_scaled"][: 2 + len(curves)]
    counts = range(1, len(results.test) + 1)
    return header, ((count, count / len(counts), *errors) for count, *errors in zip(counts, *curves, strict=True))


def misclassified(results: ErrorResults) -> Table:
    """Return all misclassified test images, the highest loss first."""
    test, files = results.test, results.files
    header = ["index", "true", "predicted", "probability_true", "probability_predicted", "loss"]
    rows = [
        (
            test.indices[row],
            results.classes[test.labels[row]],
            results.classes[test.predicted[row]],
            f"{test.probabilities[row, test.labels[row]]:.6g}",
            f"{test.probabilities[row, test.predicted[row]]:.6g}",
            f"{test.losses[row]:.6g}",
            *([files[test.indices[row]]] if files else []),
        )
        for row in test.errors
    ]
    return [*header, *(["file"] if files else [])], rows


def class_accuracy(results: RunResults) -> Table:
    """Return number of test images, accuracy (recall), precision and F1 of each class, 0..1."""
    confused = scores.confusion(results.test)
    found = scores.class_scores(confused)
    rows = zip(results.classes, confused.sum(axis=1), found.recall, found.precision, found.f1, strict=True)
    return ["class", "test_images", "accuracy", "precision", "f1"], rows


def confusion(results: RunResults) -> Table:
    """Return the confusion matrix, true classes in rows."""
    counts = scores.confusion(results.test)
    rows = [(name, *row) for name, row in zip(results.classes, counts, strict=True)]
    return ["true \\ predicted", *results.classes], rows


def history(results: RunResults) -> Table:
    """Return the metrics of each epoch; the cell of a metric that is None stays empty."""
    rows = [tuple("" if value is None else value for value in asdict(row).values()) for row in results.epochs]
    return [column.name for column in fields(EpochRow)], rows


def lr_range(results: RunResults) -> Table:
    """Return learning rate and loss of each step of the learning rate range test, and which one it suggests."""
    curve = results.lr_range
    assert curve is not None
    rows = zip(curve.lrs.tolist(), curve.losses.tolist(), (curve.lrs == curve.suggested).tolist(), strict=True)
    return ["lr", "loss", "suggested"], rows


def confidence_and_duplicates(runs: Sequence[RunResults]) -> dict[str, list[str]]:
    """Return rows of `compare` by name, a cell for each run, without those that no run has."""
    rows = {
        "calibration error with temperature": [
            f"{scores.calibration(run.scaled).error:.1%}" if run.scaled else "(none)" for run in runs
        ],
        "temperature": [f"{run.temperature.value:.3f}" if run.temperature else "(none)" for run in runs],
        "AURC": [f"{aurc(run.test):.4f}" for run in runs],
        "accuracy without near-duplicates": [
            f"{rest.accuracy:.2%}" if (rest := run.without_duplicates) else "(none)" for run in runs
        ],
    }
    return {name: cells for name, cells in rows.items() if set(cells) != {"(none)"}}
