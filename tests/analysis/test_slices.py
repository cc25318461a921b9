"""Properties of images and slices against SciPy and counts by hand."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import fisher_exact

from cifar_lit.analysis.slices import PROPERTIES, find, holm, measure


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Shape (200, 16, 16, 3), from dark to bright."""
    noise = np.random.default_rng(0).integers(0, 100, (200, 16, 16, 3))
    return (noise + np.linspace(0, 150, 200)[:, None, None, None]).astype(np.uint8)


def test_properties_equal_their_definitions(images: np.ndarray) -> None:
    image = images[7]
    gray = np.round(image @ [0.299, 0.587, 0.114])
    r, g, b = (image[..., channel].astype(float).ravel() for channel in range(3))
    rg, yb = r - g, 0.5 * (r + g) - b
    color = np.sqrt(np.var(rg) + np.var(yb)) + 0.3 * np.sqrt(np.mean(rg) ** 2 + np.mean(yb) ** 2)
    expected = (gray.mean(), gray.std(), ndimage.laplace(gray, mode="mirror").var(), color)
    assert measure(image) == pytest.approx(expected, rel=1e-2)
    assert measure(image)[3] == pytest.approx(color)


def test_weak_slice_is_found_and_counted(images: np.ndarray) -> None:
    correct = np.ones(200, bool)
    dark = np.argsort([measure(image)[0] for image in images])[:40]
    correct[dark[::2]] = False
    found = find(images, correct)
    assert [(one.property, one.number) for one in found if one.weak] == [("brightness", 1)]
    first = found[0]
    assert (first.images, first.accuracy) == (40, 0.5) and first.interval[0] < 0.5 < first.interval[1]
    assert sum(one.images for one in found if one.property == "sharpness") == 200
    assert first.p_value == pytest.approx(fisher_exact([[20, 20], [160, 0]]).pvalue * len(found))


def test_no_slice_is_weak_by_chance(images: np.ndarray) -> None:
    weak = 0
    for seed in range(10):
        weak += any(one.weak for one in find(images[:100], np.random.default_rng(seed).random(100) < 0.7))
    assert weak <= 2  # in 5% of the cases


def test_constant_property_is_left_out_and_equal_values_stay_together(images: np.ndarray) -> None:
    gray = images.copy()
    gray[..., 1] = gray[..., 2] = gray[..., 0]
    assert {one.property for one in find(gray, np.arange(200) % 2 == 0)} == set(PROPERTIES[:3])
    two = np.repeat(images[[0, 199]], [150, 50], axis=0)
    found = [one for one in find(two, np.arange(200) % 2 == 0) if one.property == "brightness"]
    assert [one.images for one in found] == [150, 50] and all(one.low == one.high for one in found)
    assert find(np.repeat(images[:1], 9, axis=0), np.ones(9, bool)) == []


def test_holm_equals_an_example_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005, 0.9])), [0.04, 0.09, 0.09, 0.025, 0.9])
