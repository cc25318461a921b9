"""The temperature against torch, a search over a grid, and known answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_lit.analysis import temperature
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.models.temperature import Temperature, find, store


def drawn(size: int, truth: float, seed: int = 0) -> Predictions:
    """Images whose labels are drawn with the probabilities that the network has at the temperature `truth`."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(size, 5)) * 3)
    probabilities = (logits / truth).softmax(1).numpy()
    labels = (probabilities.cumsum(1) > rng.random((size, 1))).argmax(1)
    return Predictions(np.arange(size), labels, logits.log_softmax(1).numpy())


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_temperature_is_that_with_the_smallest_loss(truth: float) -> None:
    predictions = drawn(2000, truth)
    found = temperature.fit(predictions)
    assert found and found.images == 2000
    grid = found.value * np.linspace(0.9, 1.1, 201)
    logits, labels = torch.from_numpy(predictions.log_probabilities), torch.from_numpy(predictions.labels)
    losses = [torch.nn.functional.cross_entropy(logits / value, labels).item() for value in grid]
    assert np.argmin(losses) == 100
    assert temperature.apply(predictions, found.value).loss == pytest.approx(losses[100], abs=1e-12)
    assert found.low < truth < found.high


def test_interval_is_that_of_resampled_images() -> None:
    predictions, rng = drawn(400, 2.0), np.random.default_rng(1)
    values = []
    for _ in range(100):
        again = temperature.fit(predictions.take(rng.integers(0, 400, 400)))
        assert again
        values.append(np.log(again.value))
    found = temperature.fit(predictions)
    assert found and np.log(found.high / found.low) / 3.92 == pytest.approx(np.std(values), rel=0.2)


def test_scaling_keeps_the_predicted_classes() -> None:
    predictions = drawn(50, 2.0)
    scaled = temperature.apply(predictions, 2.0)
    expected = (torch.from_numpy(predictions.log_probabilities) / 2).softmax(1)
    np.testing.assert_allclose(scaled.probabilities, expected.numpy(), rtol=1e-12)
    assert (scaled.predicted == predictions.predicted).all() and (scaled.labels == predictions.labels).all()


def test_no_temperature_where_the_loss_has_no_minimum() -> None:
    some = drawn(100, 1.0)
    perfect = Predictions(some.indices, some.predicted, some.log_probabilities)
    worst = Predictions(some.indices, some.log_probabilities.argmin(1), some.log_probabilities)
    reasons = []
    for predictions in (perfect, worst):
        assert temperature.fit(predictions) is None
        reasons.append(temperature.why_none(predictions))
    assert "classified correctly" in reasons[0] and "no better than chance" in reasons[1]
    assert "data.val_size" in temperature.why_none(None)


def test_no_temperature_from_a_few_images() -> None:
    predictions = drawn(temperature.MIN_IMAGES, 1.0)
    assert temperature.fit(predictions)
    assert temperature.fit(predictions.take(np.arange(len(predictions) - 1))) is None


def test_stored_temperature_belongs_to_its_weights(tmp_path: Path) -> None:
    first, second = (Temperature(value, 0.9, 2.0, 100) for value in (1.25, 1.5))
    assert find(tmp_path, "0123") is None
    for weights, one in (("0123", first), ("4567", second)):
        store(tmp_path, weights, one)
    assert find(tmp_path, "0123") == first and find(tmp_path, "4567") == second
    assert find(tmp_path, "89ab") is None
    store(tmp_path, "0123", second)
    assert find(tmp_path, "0123") == second
