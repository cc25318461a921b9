"""Scores of the confidence against scipy, torchmetrics and sums by hand, and how often intervals contain the truth."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from torchmetrics.functional.classification import multiclass_calibration_error

from cifar_lit.analysis import temperature
from cifar_lit.analysis.confidence import assess, aurc, risk_coverage
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.analysis.scores import calibration


def binary(confidence: np.ndarray, correct: np.ndarray) -> Predictions:
    table = np.stack([1 - confidence, confidence], axis=1)
    return Predictions(np.arange(len(table)), correct.astype(np.int64), np.log(table))


def network(size: int, exponent: float, rng: np.random.Generator) -> Predictions:
    """A network whose odds of being correct are its confidence's to the power of `exponent`: 1 is calibrated."""
    confidence = 1 / (1 + np.exp(-np.abs(rng.normal(3, 2, size))))
    true = 1 / (1 + ((1 - confidence) / confidence) ** exponent)
    return binary(confidence, rng.random(size) < true)


def test_scores_equal_those_computed_otherwise() -> None:
    before = network(400, 0.5, np.random.default_rng(0))
    after = temperature.apply(before, 2.0)
    found = assess(before, after, resamples=1000)
    assert found.after and found.change
    for one, predictions in ((found.before, before), (found.after, after)):
        table, labels = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.labels)
        expected = multiclass_calibration_error(table, labels, num_classes=2, n_bins=15)
        assert one["calibration_error"].value == pytest.approx(expected.item(), abs=1e-6)
        ranked = sorted(zip(-predictions.confidence, predictions.predicted != predictions.labels, strict=True))
        misclassified = [bool(error) for _, error in ranked]
        by_hand = sum(sum(misclassified[:k]) / k for k in range(1, 401)) / 400
        assert one["aurc"].value == pytest.approx(aurc(predictions)) == pytest.approx(by_hand)
        scipy = bootstrap((predictions.losses,), np.mean, method="basic", n_resamples=2000, rng=0).confidence_interval
        assert (one["loss"].low, one["loss"].high) == pytest.approx(tuple(scipy), rel=0.05)
    pairs = bootstrap((after.losses - before.losses,), np.mean, method="basic", n_resamples=2000, rng=0)
    change = found.change["loss"]
    assert change.value == pytest.approx(after.loss - before.loss)
    assert (change.low, change.high) == pytest.approx(tuple(pairs.confidence_interval), abs=0.005)
    assert assess(before, after, resamples=50) == assess(before, after, resamples=50)
    alone = assess(before, None, resamples=50)
    assert alone.after is None and alone.before["loss"].value == pytest.approx(before.loss)


def test_equal_confidence_counts_with_its_mean_error() -> None:
    confidence = np.array([0.9, 0.6, 0.6, 0.6, 0.8])
    correct = np.array([True, False, True, True, False])
    expected = [0, 1 / 2, (1 + 1 / 3) / 3, (1 + 2 / 3) / 4, 2 / 5]
    for order in (slice(None), slice(None, None, -1)):
        np.testing.assert_allclose(risk_coverage(binary(confidence[order], correct[order])), expected)


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_intervals_of_the_calibration_error_contain_the_truth(exponent: float) -> None:
    rng = np.random.default_rng(0)
    population = network(500_000, exponent, rng)
    truth = 0.0 if exponent == 1 else calibration(population).error
    inside = above = 0
    for _ in range(40):
        sample = network(400, exponent, rng)
        found = assess(sample, None, resamples=100)
        one = found.before["calibration_error"]
        inside += one.low <= truth <= one.high
        above += one.value > found.by_chance
    assert inside >= 34  # of 95% each
    assert above <= 6 if exponent == 1 else above >= 34
