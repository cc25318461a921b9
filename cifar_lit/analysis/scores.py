"""Scores of predictions beyond accuracy and loss."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.predictions import Predictions

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
BINS = 15  # of the confidence, as in arXiv 1706.04599


def accuracy_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's confidence interval of a fraction (Wilson 1927; scipy.stats.binomtest), each end in 0..1.

    Args:
        correct: Number of correctly classified images.
        total: Number of images, at least 1.
        level: Confidence level, 0..1.
    """
    from scipy.stats import binomtest  # takes half a second to import

    interval = binomtest(correct, total).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def summary(predictions: Predictions) -> dict[str, Any]:
    """Return accuracy with its interval, loss, calibration error, and the numbers of images and errors."""
    errors = len(predictions.errors)
    return {
        "accuracy": predictions.accuracy,
        "accuracy_interval_95": accuracy_interval(len(predictions) - errors, len(predictions)),
        "loss": predictions.loss,
        "calibration_error": calibration(predictions).error,
        "images": len(predictions),
        "errors": errors,
    }


def confusion(predictions: Predictions) -> Counts:
    """Count the images of each true class (row) with each predicted class (column): `(C, C)`, int64."""
    classes = predictions.log_probabilities.shape[1]
    cells = predictions.labels * classes + predictions.predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassScores:
    """Scores of each class, each of shape `(C,)`, 0..1.

    Attributes:
        precision: Fraction of correct predictions among those of the class; nan if there are none.
        recall: Fraction of correct predictions among the images of the class, its accuracy; nan if there are none.
        f1: Harmonic mean of the two; nan if there are neither predictions nor images.
    """

    precision: Floats
    recall: Floats
    f1: Floats


def class_scores(table: Counts) -> ClassScores:
    """Compute precision, recall and F1 of each class from a confusion matrix."""
    correct, predicted, true = table.diagonal().astype(np.float64), table.sum(axis=0), table.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return ClassScores(correct / predicted, correct / true, 2 * correct / (predicted + true))


def confused_pairs(table: Counts, most: int = 10) -> list[tuple[int, int, int]]:
    """Return the most frequent errors as (true class, predicted class, images), the most frequent first."""
    errors = table - np.diag(table.diagonal())
    order = np.argsort(-errors, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, errors.shape), errors.ravel()[order], strict=True)
    return [(int(true), int(predicted), int(count)) for true, predicted, count in pairs if count]


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy in B equal bins of the confidence, 0..1 (arXiv 1706.04599).

    Attributes:
        count: Shape `(B,)`, number of images.
        confidence: Shape `(B,)`, mean highest probability; nan in an empty bin.
        accuracy: Shape `(B,)`, fraction classified correctly; nan in an empty bin.
    """

    count: Counts
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """Expected calibration error, 0..1: mean absolute difference of the two, weighted by count."""
        filled = self.count > 0
        distance = np.abs(self.confidence - self.accuracy)[filled]
        return float(np.average(distance, weights=self.count[filled]))


def confidence_bins(confidence: Floats, bins: int = BINS) -> Counts:
    """Return the bin of each confidence, int64; bins exclude their lower end."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def calibration(predictions: Predictions, bins: int = BINS) -> Calibration:
    """Compute the calibration."""
    confidence, correct = predictions.confidence, predictions.predicted == predictions.labels
    bin_ = confidence_bins(confidence, bins)
    count, *sums = (np.bincount(bin_, weights, minlength=bins) for weights in (None, confidence, correct))
    with np.errstate(invalid="ignore"):
        return Calibration(count, *(total / count for total in sums))


def principal_components(features: NDArray[np.float32], most: int = 50) -> NDArray[np.float32]:
    """Reduce features `(M, D)` to at most `most` dimensions by principal component analysis, `(M, <= most)`."""
    from sklearn.decomposition import PCA  # takes a second to import

    reduced: NDArray[np.float32] = PCA(min(most, *features.shape), svd_solver="covariance_eigh").fit_transform(features)
    return reduced
