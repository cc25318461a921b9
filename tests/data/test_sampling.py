import numpy as np
import pytest

from cifar_lit.data.sampling import stratified_split

LABELS = np.random.default_rng(3).choice(5, size=1000, p=[0.4, 0.3, 0.2, 0.08, 0.02]).astype(np.int64)


@pytest.mark.parametrize("size", [0, 1, 7, 137, 500, 1000])
def test_split_is_disjoint_complete_and_sorted(size: int) -> None:
    rest, held_out = stratified_split(LABELS, size, seed=0)
    assert len(held_out) == size
    assert held_out.dtype == rest.dtype == np.int64
    assert sorted([*rest, *held_out]) == list(range(1000))
    assert (np.diff(rest) > 0).all() and (np.diff(held_out) > 0).all()


@pytest.mark.parametrize("size", [7, 137, 500])
def test_each_class_contributes_its_share(size: int) -> None:
    _, held_out = stratified_split(LABELS, size, seed=0)
    share = np.bincount(LABELS) * size / len(LABELS)
    assert (np.abs(np.bincount(LABELS[held_out], minlength=5) - share) <= 1).all()


def test_rare_class_is_not_preferred() -> None:
    labels = np.array([0] * 10 + [1] * 90)
    for size in (1, 10, 20):
        assert (labels[stratified_split(labels, size, seed=0)[1]] == 0).sum() == size // 10


def test_seed_decides() -> None:
    first, again, other = (stratified_split(LABELS, 100, seed)[1] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_images_of_a_class_are_chosen_at_random() -> None:
    _, held_out = stratified_split(np.zeros(1000, np.int64), 100, seed=0)
    assert 400 < held_out.mean() < 600


def test_class_names_may_be_any_numbers_and_unordered() -> None:
    _, held_out = stratified_split(np.array([9, 4, 9, 4, 9, 4, 9, 4]), 4, seed=0)
    assert sorted(np.array([9, 4] * 4)[held_out]) == [4, 4, 9, 9]


@pytest.mark.parametrize("size", [-1, 1001])
def test_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        stratified_split(LABELS, size, seed=0)
