"""Every score against an independent one: scikit-learn, torchmetrics, or a count by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torchmetrics.functional.classification import multiclass_calibration_error

from cifar_lit.analysis.predictions import Predictions
from cifar_lit.analysis.scores import (
    accuracy_interval,
    calibration,
    class_scores,
    confused_pairs,
    confusion,
    principal_components,
)


@pytest.fixture
def some() -> Predictions:
    """500 images of four classes, about two thirds of them classified correctly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 500)
    logits = rng.normal(size=(500, 4)) * 2
    logits[np.arange(500), labels] += 2
    return Predictions(np.arange(500), labels, logits - np.log(np.exp(logits).sum(1, keepdims=True)))


def test_principal_components_keep_the_distances_of_low_dimensional_features() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(100, 3)) @ rng.normal(size=(3, 40))).astype(np.float32)  # a space of 3 dimensions
    reduced = principal_components(features, 5)
    assert reduced.shape == (100, 5) and reduced.dtype == np.float32
    distances = [np.linalg.norm(one[:, None] - one[None], axis=2) for one in (features, reduced)]
    np.testing.assert_allclose(*distances, atol=1e-2)
    assert principal_components(features[:4]).shape == (4, 4)


def test_accuracy_interval_equals_a_published_example() -> None:
    # Wilson's interval of 15 in 148, as in Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert accuracy_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert accuracy_interval(10, 10)[1] == 1 and accuracy_interval(0, 10)[0] == 0


def test_confusion_and_class_scores(some: Predictions) -> None:
    table = confusion(some)
    np.testing.assert_array_equal(table, sklearn.confusion_matrix(some.labels, some.predicted))
    scores = class_scores(table)
    expected = sklearn.precision_recall_fscore_support(some.labels, some.predicted)
    for got, wanted in zip((scores.precision, scores.recall, scores.f1), expected, strict=False):
        np.testing.assert_allclose(got, wanted)


def test_class_scores_are_nan_only_if_undefined() -> None:
    # No image of class 1 and no prediction of class 2; class 3 has neither.
    scores = class_scores(np.array([[3, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(scores.precision, [3 / 5, 0, np.nan, np.nan])
    np.testing.assert_allclose(scores.recall, [3 / 4, np.nan, 0, np.nan])
    np.testing.assert_allclose(scores.f1, [6 / 9, 0, 0, np.nan])


def test_confused_pairs() -> None:
    table = np.array([[9, 0, 4], [1, 9, 0], [6, 0, 9]])
    assert confused_pairs(table) == [(2, 0, 6), (0, 2, 4), (1, 0, 1)]
    assert confused_pairs(table, most=1) == [(2, 0, 6)]


def test_calibration(some: Predictions) -> None:
    got = calibration(some, bins=15)
    expected = multiclass_calibration_error(
        torch.tensor(some.probabilities), torch.tensor(some.labels), num_classes=4, n_bins=15, norm="l1"
    )
    assert got.error == pytest.approx(float(expected), abs=1e-6)
    assert got.count.sum() == 500
    lower, upper = np.arange(15) / 15, np.arange(1, 16) / 15
    filled = got.count > 0
    assert (lower[filled] <= got.confidence[filled]).all() and (got.confidence[filled] <= upper[filled]).all()
    assert np.nansum(got.accuracy * got.count) == pytest.approx((some.predicted == some.labels).sum())


def test_margin_and_confidence(some: Predictions) -> None:
    ordered = np.sort(some.probabilities, axis=1)
    correct = some.predicted == some.labels
    np.testing.assert_allclose(some.margins[correct], (ordered[:, -1] - ordered[:, -2])[correct])
    assert (some.margins[~correct] < 0).all()
    np.testing.assert_allclose(some.confidence, ordered[:, -1])
