"""How good predictions are, beyond accuracy and loss; pure functions of `Predictions`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.predictions import Predictions

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def accuracy_interval(right: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's confidence interval of a share (Wilson 1927; scipy.stats.binomtest), each end in 0..1.

    Args:
        right: How many of the images are right.
        total: How many there are, at least 1.
        level: Confidence level, 0..1.
    """
    from scipy.stats import binomtest  # takes half a second to import

    interval = binomtest(right, total).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def summary(predictions: Predictions) -> dict[str, Any]:
    """Return accuracy with its interval, loss, calibration error, the number of images and that of wrong ones."""
    wrong = len(predictions.errors)
    return {
        "accuracy": predictions.accuracy,
        "accuracy_interval_95": accuracy_interval(len(predictions) - wrong, len(predictions)),
        "loss": predictions.loss,
        "calibration_error": calibration(predictions).error,
        "images": len(predictions),
        "errors": wrong,
    }


def confusion(predictions: Predictions) -> Counts:
    """Count the images of each true class (row) that were given each class (column): `(C, C)`, int64."""
    classes = predictions.log_probabilities.shape[1]
    cells = predictions.labels * classes + predictions.predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassScores:
    """Scores of each class, each of shape `(C,)`, 0..1; nan where they are not defined.

    Attributes:
        precision: Share of right ones among the images that were given the class; nan where none was.
        recall: Share of right ones among the images of the class, also called its accuracy; nan where there are none.
        f1: Harmonic mean of the two; 0 where all was wrong, nan where there was neither image nor prediction.
    """

    precision: Floats
    recall: Floats
    f1: Floats


def class_scores(table: Counts) -> ClassScores:
    """Compute precision, recall and F1 of each class from a confusion matrix."""
    right, given, true = table.diagonal().astype(np.float64), table.sum(axis=0), table.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return ClassScores(right / given, right / true, 2 * right / (given + true))


def confused_pairs(table: Counts, most: int = 10) -> list[tuple[int, int, int]]:
    """Return the most frequent mistakes as (true class, predicted class, images), the most frequent first."""
    wrong = table - np.diag(table.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape), wrong.ravel()[order], strict=True)
    return [(int(true), int(predicted), int(count)) for true, predicted, count in pairs if count]


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy agree (arXiv 1706.04599).

    Attributes:
        count: Shape `(B,)`, the images whose highest probability lies in each of B equal bins over 0..1.
        confidence: Shape `(B,)`, their mean highest probability; nan in an empty bin.
        accuracy: Shape `(B,)`, the share of them that is right; nan in an empty bin.
    """

    count: Counts
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """The expected calibration error, 0..1: the mean distance of the two, each bin by its images."""
        filled = self.count > 0
        distance = np.abs(self.confidence - self.accuracy)[filled]
        return float(np.average(distance, weights=self.count[filled]))


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """Sort images into bins by the probability of their prediction, each bin without its lower end."""
    confidence = predictions.confidence
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidence, minlength=bins) / count
        right = np.bincount(place, predictions.predicted == predictions.labels, minlength=bins) / count
    return Calibration(count, mean, right)


def principal_components(features: NDArray[np.float32], most: int = 50) -> NDArray[np.float32]:
    """Reduce features `(M, D)` to at most `most` dimensions by principal component analysis, `(M, <= most)`."""
    from sklearn.decomposition import PCA  # takes a second to import

    reduced: NDArray[np.float32] = PCA(min(most, *features.shape), svd_solver="covariance_eigh").fit_transform(features)
    return reduced


def label_suspects(predictions: Predictions) -> Counts:
    """Return rows whose label is probably wrong by confident learning (arXiv 1911.00068), the most suspect first.

    A image counts as belonging to a class when its probability for it reaches the mean of those labelled so. It is
    a suspect if the most probable of the classes that it belongs to is not its label. Suspects are ranked by their
    normalised margin, the probability of the label less the highest other one.
    """
    probabilities, labels = predictions.probabilities, predictions.labels
    classes = probabilities.shape[1]
    count = np.bincount(labels, minlength=classes)
    total = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=classes)
    threshold = np.divide(total, count, out=np.full(classes, np.inf), where=count > 0)
    belongs = np.where(probabilities >= threshold, probabilities, -1.0)
    suspect = (belongs.max(axis=1) >= 0) & (belongs.argmax(axis=1) != labels)
    rows = np.flatnonzero(suspect)
    return rows[np.argsort(predictions.margins[rows], kind="stable")]
