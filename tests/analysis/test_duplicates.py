"""Changed copies of images are found among others, the same ones as by comparing each with each."""

import cv2
import numpy as np
import pytest

from cifar_lit.analysis.duplicates import MIN_SIMILARITY, Duplicates, find

COUNT = 120


def photos(size: int, count: int, seed: int) -> np.ndarray:
    """Smooth colorful images, as different as photos are."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in noise])


def changed(train: np.ndarray) -> np.ndarray:
    """The first eight training images, each changed in another way, and images of their own."""
    darker = (train[1] * 0.5 + 20).astype(np.uint8)
    shifted = np.roll(train[3], (1, -1), axis=(0, 1))
    noisy = np.clip(train[4] + np.random.default_rng(0).normal(0, 8, train[4].shape), 0, 255).astype(np.uint8)
    framed = train[5].copy()
    framed[:2], framed[-2:] = 0, 0
    own = photos(train.shape[1], 20, seed=1)
    flat = np.full_like(train[:1], 90)
    return np.concatenate([np.stack([train[0], darker, train[2][:, ::-1], shifted, noisy, framed]), own, flat])


@pytest.mark.parametrize("size", [32, 64])
def test_changed_copies_are_found(size: int) -> None:
    train = photos(size, COUNT, seed=0)
    found = find(changed(train), np.arange(27), train)
    assert sorted(found.test.tolist()) == list(range(6))
    assert found.train.tolist() == found.test.tolist()
    assert found.test[found.exact].tolist() == [0] and found.test[found.mirrored].tolist() == [2]
    assert (np.diff(found.similarity) <= 0).all() and found.similarity[0] == 1


def test_similarity_is_the_correlation_of_the_details() -> None:
    train = photos(32, COUNT, seed=0)
    test = changed(train)

    def detail(image: np.ndarray) -> np.ndarray:
        gray = np.round(image @ [0.299, 0.587, 0.114]).astype(np.float32)
        return gray - cv2.GaussianBlur(gray, (0, 0), 2.0)

    def highest(one: np.ndarray, other: np.ndarray) -> float:
        inner = detail(one)[3:29, 3:29].ravel()
        windows = np.lib.stride_tricks.sliding_window_view(detail(other), (26, 26)).reshape(-1, 26 * 26)
        return max(float(np.corrcoef(inner, window)[0, 1]) for window in windows)

    found = find(test, np.array([1, 3, 4, 9]), train)
    assert found.test.tolist() == sorted([1, 3, 4], key=lambda row: -highest(test[row], train[row]))
    for row, similarity in zip(found.test, found.similarity, strict=True):
        assert similarity == pytest.approx(highest(test[row], train[row]), abs=2e-2) and similarity >= MIN_SIMILARITY


def test_no_pairs() -> None:
    found = find(photos(32, 3, seed=1), np.arange(3), photos(32, 3, seed=0))
    assert isinstance(found, Duplicates) and len(found) == 0
