"""How far a network's confidence can be trusted: calibration error, loss and risk-coverage curve, with intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.bootstrap import Estimate
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.analysis.scores import BINS, confidence_bins

Floats = NDArray[np.float64]
SCORES = ("calibration_error", "loss", "aurc")
RESAMPLES = 1000


@dataclass(frozen=True)
class Confidence:
    """Scores by their names in SCORES, before and after temperature scaling.

    Attributes:
        before: Of the predictions as they are.
        after: Of the scaled ones; None if there are none.
        change: After minus before, from the same resamples; None likewise.
        by_chance: The calibration error that a perfectly calibrated network with the confidences of `before` stays
            below in 95% of test sets of this size.
        by_chance_after: The same for `after`; None likewise.
    """

    before: dict[str, Estimate]
    after: dict[str, Estimate] | None
    change: dict[str, Estimate] | None
    by_chance: float
    by_chance_after: float | None


def risk_coverage(predictions: Predictions) -> Floats:
    """Return the error among the k most confident images for k = 1..M: `(M,)`, 0..1 (arXiv 1705.08500).

    Images of equal confidence count with their mean error, so that their order does not matter.
    """
    return np.cumsum(_sorted_errors(predictions)[1]) / np.arange(1, len(predictions) + 1)


def aurc(predictions: Predictions) -> float:
    """Return the area under the risk-coverage curve, the mean of it, 0..1 (arXiv 1805.08206)."""
    return float(risk_coverage(predictions).mean())


def assess(before: Predictions, after: Predictions | None, seed: int = 0, resamples: int = RESAMPLES) -> Confidence:
    """Score predictions for the same images before and after scaling.

    The intervals are basic bootstrap intervals, 2 x estimate minus the quantiles of the resamples. The estimate of the
    calibration error is too high, because in each bin chance adds to the absolute difference, and that of a resample
    is too high twice: the usual percentile interval excludes the truth, this one subtracts the bias. Its lower end is
    0 if the estimate is one that a perfectly calibrated network reaches by chance (Broecker and Smith 2007).

    Args:
        before: Predictions as they are.
        after: The scaled ones.
        seed: Of the resampling.
        resamples: Their number.
    """
    rng, size = np.random.default_rng(seed), len(before)
    both = [_Statistics(one) for one in (before, after) if one is not None]
    chance = np.array([[one.chance(rng) for one in both] for _ in range(resamples)])
    values = np.array([one(np.ones(size)) for one in both])
    drawn = np.empty((resamples, *values.shape))
    for row in range(resamples):
        weights = np.bincount(rng.integers(0, size, size), minlength=size).astype(np.float64)
        drawn[row] = [one(weights) for one in both]
    perfect = values[:, 0] <= np.quantile(chance, 0.975, axis=0)
    scores = [_estimates(values[i], drawn[:, i], size, 0.0, bool(perfect[i])) for i in range(len(both))]
    limits = np.quantile(chance, 0.95, axis=0).tolist()
    if after is None:
        return Confidence(scores[0], None, None, limits[0], None)
    change = _estimates(values[1] - values[0], drawn[:, 1] - drawn[:, 0], size, -np.inf, False)
    return Confidence(scores[0], scores[1], change, *limits)


class _Statistics:
    """The scores of predictions as functions of the weight of each image."""

    def __init__(self, predictions: Predictions) -> None:
        confidence = predictions.confidence
        self.confidence, self.losses = confidence, predictions.losses
        self.gap = confidence - (predictions.predicted == predictions.labels)
        self.bins = confidence_bins(confidence)
        self.order, self.errors = _sorted_errors(predictions)

    def __call__(self, weights: Floats) -> list[float]:
        total = weights.sum()
        error = np.abs(np.bincount(self.bins, weights * self.gap, BINS)).sum() / total
        in_order = weights[self.order]
        risk = np.cumsum(in_order * self.errors) / np.maximum(np.cumsum(in_order), 1)
        return [error, weights @ self.losses / total, in_order @ risk / total]

    def chance(self, rng: np.random.Generator) -> float:
        """Return the calibration error if each prediction were correct with the probability of its confidence."""
        gap = self.confidence - (rng.random(len(self.confidence)) < self.confidence)
        return float(np.abs(np.bincount(self.bins, gap, BINS)).sum() / len(gap))


def _sorted_errors(predictions: Predictions) -> tuple[NDArray[np.int64], Floats]:
    """Return rows, the most confident first, and their errors, each the mean over the rows of equal confidence."""
    order = np.argsort(-predictions.confidence, kind="stable")
    misclassified = (predictions.predicted != predictions.labels).astype(np.float64)
    _, group, counts = np.unique(predictions.confidence, return_inverse=True, return_counts=True)
    return order, (np.bincount(group, misclassified) / counts)[group][order]


def _estimates(values: Floats, drawn: Floats, count: int, least: float, perfect: bool) -> dict[str, Estimate]:
    low, high = 2 * values - np.quantile(drawn, [0.975, 0.025], axis=0)
    if perfect:
        low[0] = 0
    low, high = np.maximum(low, least), np.maximum(high, least)
    columns = zip(SCORES, values.tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Estimate(value, lower, upper, count) for name, value, lower, upper in columns}
