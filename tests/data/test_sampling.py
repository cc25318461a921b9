from collections import Counter

import numpy as np
import pytest

from cifar_lit.data.dataset import DataSplits, ImageDataset
from cifar_lit.data.sampling import EvalSampler, TrainSampler, stratified_split
from cifar_lit.utils.hardware import eval_batch_size

LABELS = np.random.default_rng(3).choice(5, size=1000, p=[0.4, 0.3, 0.2, 0.08, 0.02]).astype(np.int64)


@pytest.mark.parametrize("size", [0, 1, 7, 137, 500, 1000])
def test_split_is_sorted_complete_and_stratified(size: int) -> None:
    rest, held_out = stratified_split(LABELS, size, seed=0)
    assert len(held_out) == size and held_out.dtype == rest.dtype == np.int64
    assert sorted([*rest, *held_out]) == list(range(1000))
    assert (np.diff(rest) > 0).all() and (np.diff(held_out) > 0).all()
    expected = np.bincount(LABELS) * size / len(LABELS)
    assert (np.abs(np.bincount(LABELS[held_out], minlength=5) - expected) <= 1).all()


def test_rare_class_is_not_preferred() -> None:
    labels = np.array([0] * 10 + [1] * 90)
    for size in (1, 10, 20):
        assert (labels[stratified_split(labels, size, seed=0)[1]] == 0).sum() == size // 10


def test_split_depends_on_the_seed() -> None:
    first, second, other = (stratified_split(LABELS, 100, seed)[1] for seed in (1, 1, 2))
    assert (first == second).all() and (first != other).any()
    _, held_out = stratified_split(np.zeros(1000, np.int64), 100, seed=0)
    assert 400 < held_out.mean() < 600


@pytest.mark.parametrize("size", [-1, 1001])
def test_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="cannot hold out"):
        stratified_split(LABELS, size, seed=0)


def test_several_processes_train_on_the_batches_of_one(splits: DataSplits) -> None:
    dataset = ImageDataset(splits.train, np.arange(60))
    single = list(TrainSampler(dataset, 0, lambda: (5, 0), 10, 0, 1))
    first, second = (list(TrainSampler(dataset, 0, lambda: (5, 0), 5, rank, 2)) for rank in range(2))
    for start in range(0, 30, 5):  # a batch of 10, or two of 5
        both = first[start : start + 5] + second[start : start + 5]
        assert sorted(both) == sorted(single[2 * start : 2 * start + 10])
    odd = ImageDataset(splits.train, np.arange(59))
    thirds = [list(TrainSampler(odd, 0, lambda: (0, 0), 5, rank, 3)) for rank in range(3)]
    assert [len(third) for third in thirds] == [20, 20, 20]  # all processes must take the same number of steps
    assert {position for third in thirds for _, position in third} == set(range(59))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_uses_each_image_once(splits: DataSplits, world_size: int) -> None:
    dataset = ImageDataset(splits.train, np.arange(59))
    samplers = [EvalSampler(dataset, rank, world_size) for rank in range(world_size)]
    assert Counter(position for sampler in samplers for _, position in sampler) == Counter(range(59))
    assert sum(map(len, samplers)) == 59


@pytest.mark.parametrize(("image_size", "expected"), [(8, 256), (64, 256), (224, 20), (4096, 1)])
def test_large_images_are_evaluated_in_smaller_batches(image_size: int, expected: int) -> None:
    assert eval_batch_size(image_size) == expected
