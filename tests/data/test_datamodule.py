"""The data module and its loaders, driven by a Trainer."""

import multiprocessing
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, Subset

from cifar_lit.data.augment.config import AugmentConfig
from cifar_lit.data.augment.cpu import Augmentation
from cifar_lit.data.augment.device import DeviceAugmentation
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import Batch, DataSplits, ImageDataset, Split, channel_statistics
from cifar_lit.data.loaders import DeviceLoader, LazyDataLoader, as_is
from cifar_lit.data.sampling import TrainSampler
from cifar_lit.data.workers import worker_failure
from cifar_lit.models.resnet import Normalize
from cifar_lit.utils.errors import UsageError
from tests.conftest import SaveEpochs


class Recorder(LightningModule):
    """Records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[tuple[int, bytes]]] = {}
        self.held_out: list[int] = []
        self.options: dict[str, Any] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        assert batch.images.dtype == torch.uint8 and batch.labels.dtype == torch.int64
        epoch = self.epochs.setdefault(self.current_epoch, [])
        epoch += [(int(i), image.numpy().tobytes()) for i, image in zip(batch.indices, batch.images, strict=True)]
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.held_out += batch.indices.tolist()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder: Path, num_workers: int = 0, ckpt_path: str | None = None, **options: Any) -> Recorder:
    data = ImageDataModule("digits", val_size=137, image_size=16, num_workers=num_workers, **{"seed": 3, **options})
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[SaveEpochs(folder)],
    )
    module = Recorder()
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.fixture(scope="module", params=["workers", "device"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    folder = tmp_path_factory.mktemp("full")
    recorder = run(folder, augment_on=request.param)
    recorder.options = {"augment_on": request.param}
    return folder, recorder


def test_epochs_have_the_same_images_in_another_order_and_augmentation(full: tuple[Path, Recorder]) -> None:
    first, second, third = (full[1].epochs[epoch] for epoch in range(3))
    assert len(first) == len(second) == len(third) == 1300 and len(set(full[1].held_out)) == 137
    assert dict(first).keys() == dict(second).keys() == dict(third).keys() == set(range(1437)) - set(full[1].held_out)
    assert [i for i, _ in first] != [i for i, _ in second]
    assert sum(dict(first)[i] == dict(second)[i] for i in dict(first)) < 13  # 1% are equal by chance


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"batch_size": 100}], ids=str)
def test_images_do_not_depend_on(full: tuple[Path, Recorder], tmp_path: Path, options: dict[str, int]) -> None:
    assert run(tmp_path, **full[1].options, **options).epochs == full[1].epochs


def test_another_seed_changes_split_order_and_augmentation(full: tuple[Path, Recorder], tmp_path: Path) -> None:
    other = run(tmp_path, seed=4, **full[1].options)
    assert set(other.held_out) != set(full[1].held_out)
    assert not set(other.epochs[0]) & set(full[1].epochs[0][:50])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_run_has_identical_batches(full: tuple[Path, Recorder], tmp_path: Path, num_workers: int) -> None:
    folder, recorder = full
    resumed = run(tmp_path, num_workers, ckpt_path=str(folder / "0.ckpt"), **recorder.options)
    assert resumed.epochs == {epoch: recorder.epochs[epoch] for epoch in (1, 2)}


@pytest.mark.parametrize("device", [False, True], ids=["workers", "device"])
def test_epoch_is_resumed_after_the_completed_batches(splits: DataSplits, device: bool) -> None:
    dataset = ImageDataset(splits.train, np.arange(60), Augmentation(AugmentConfig(32), splits.mean), seed=1)

    def batches(completed: int) -> list[tuple[list[int], bytes]]:
        sampler = TrainSampler(dataset, 1, lambda: (5, completed), 8, 0, 1)
        loader: DeviceLoader | LazyDataLoader
        if device:
            loader = DeviceLoader(dataset, sampler, DeviceAugmentation(AugmentConfig(32), splits.mean), 8, True, "cpu")
        else:
            loader = LazyDataLoader(dataset, 8, sampler=sampler, collate_fn=as_is, drop_last=True)
        assert len(loader) == 7
        return [(batch.indices.tolist(), batch.images.numpy().tobytes()) for batch in loader]

    epoch = batches(0)
    assert len(epoch) == 7
    assert batches(3) == epoch[3:]


def test_several_processes_train_on_the_images_of_one_on_the_device(splits: DataSplits) -> None:
    dataset = ImageDataset(splits.train, np.arange(60), seed=1)
    augmentation = DeviceAugmentation(AugmentConfig(32), splits.mean)

    def images(rank: int, world_size: int) -> dict[int, bytes]:
        sampler = TrainSampler(dataset, 1, lambda: (5, 0), 10 // world_size, rank, world_size)
        loader = DeviceLoader(dataset, sampler, augmentation, 10 // world_size, False, "cpu")
        assert len(loader) == 6
        batches = [zip(batch.indices.tolist(), batch.images.numpy(), strict=True) for batch in loader]
        return {index: image.tobytes() for batch in batches for index, image in batch}

    assert len(images(0, 1)) == 60
    assert images(0, 2) | images(1, 2) == images(0, 1)


@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_samples_are_the_images_of_the_first_epoch(augment_on: str) -> None:
    data = ImageDataModule("digits", val_size=137, num_workers=0, batch_size=1300, augment_on=augment_on, seed=0)
    batch = next(iter(data.train_dataloader()))
    images = {int(i): image for i, image in zip(batch.indices, batch.images, strict=True)}
    samples = data.samples(np.array([3, 500]))
    for i, image in zip(samples.indices, samples.images, strict=True):
        assert (images[int(i)] == image).all()
        assert not (image.numpy() == data.splits.train.images[i]).all()


def test_more_processes_than_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageDataModule, "_rank", lambda _: (0, 361))
    with pytest.raises(UsageError, match="test images: 360 for 361 processes"):
        ImageDataModule("digits").test_dataloader()
    with pytest.raises(UsageError, match=r"data\.val_size: 300 for 361 processes"):
        ImageDataModule("digits", val_size=300).val_dataloader()


@pytest.mark.parametrize(("val_size", "world_size"), [(513, 2), (514, 2), (769, 3), (770, 3), (771, 3), (5, 4)])
def test_all_processes_have_the_same_number_of_validation_batches(
    monkeypatch: pytest.MonkeyPatch, val_size: int, world_size: int
) -> None:
    counts, held_out = set(), []
    for rank in range(world_size):
        monkeypatch.setattr(ImageDataModule, "_rank", lambda _, rank=rank: (rank, world_size))
        batches = list(ImageDataModule("digits", val_size=val_size, batch_size=64, seed=0).val_dataloader())
        counts.add(len(batches))
        held_out += [index for batch in batches for index in batch.indices.tolist()]
    assert len(counts) == 1 and len(set(held_out)) == len(held_out) == val_size


def test_resumed_run_augments_where_it_started_to() -> None:
    data = ImageDataModule("digits", val_size=137, seed=0, num_workers=0)
    assert isinstance(data.train_dataloader(), LazyDataLoader)
    data.load_state_dict({**data.state_dict(), "on_device": True})  # as on a GPU with enough memory
    assert isinstance(data.train_dataloader(), DeviceLoader) and data.state_dict()["on_device"]


@pytest.mark.parametrize(("size", "expected"), [(32, 4096), (64, 1024), (512, 64)])
def test_fewer_large_images_are_augmented_at_once(size: int, expected: int) -> None:
    split = Split(np.zeros((65, size, size, 3), np.uint8), np.zeros(65, np.int64))
    dataset = ImageDataset(split, np.arange(65))
    sampler = TrainSampler(dataset, 0, lambda: (0, 0), 64, 0, 1)
    loader = DeviceLoader(dataset, sampler, DeviceAugmentation(AugmentConfig(size), (0.5,) * 3), 64, False, "cpu")
    assert loader.chunk_size == expected and sum(len(batch.labels) for batch in loader) == 65


def test_dataset_returns_entire_batches(splits: DataSplits) -> None:
    dataset = ImageDataset(splits.train, np.array([5, 7, 9]))
    batch = dataset.batch([(0, 2), (0, 0)])
    assert batch.indices.tolist() == [9, 5]
    assert (batch.images.numpy() == splits.train.images[[9, 5]]).all()
    assert batch.labels.tolist() == splits.train.labels[[9, 5]].tolist()


def test_dataset_can_be_indexed_iterated_and_loaded() -> None:
    dataset = ImageDataModule("digits", val_size=0, image_size=8, seed=0, cutout_size=0).train_dataset
    first = dataset[0]
    assert first.images.shape == (8, 8, 3) and first.labels.shape == () and int(first.indices) == 0
    assert torch.equal(first.images, dataset[(0, 0)].images)
    assert any(not torch.equal(first.images, dataset[(epoch, 0)].images) for epoch in (1, 2, 3))
    assert int(dataset[-1].indices) == 1436
    with pytest.raises(IndexError):
        dataset[1437]
    part = Subset(dataset, [4, 2])
    assert [int(label) for _, label, _ in part] == dataset.split.labels[[4, 2]].tolist()
    (batch,) = DataLoader(part, batch_size=2)
    assert batch.images.shape == (2, 8, 8, 3) and batch.indices.tolist() == [4, 2]


@pytest.mark.parametrize(("batch_size", "expected"), [(433, 3), (1, 1300)])  # 1300 = 3 * 433 + 1
@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_last_training_batch_of_one_image_is_dropped(batch_size: int, expected: int, augment_on: str) -> None:
    data = ImageDataModule(
        "digits", val_size=137, batch_size=batch_size, image_size=8, num_workers=0, augment_on=augment_on
    )
    loader = data.train_dataloader()
    assert len(loader) == len([batch for batch in loader]) == expected


@pytest.mark.parametrize(("free_batches", "workers"), [(None, 4), (100, 4), (10, 4), (9, 3), (2, 0), (0, 0)])
def test_batches_of_the_workers_fit_into_the_shared_memory(
    monkeypatch: pytest.MonkeyPatch, free_batches: int | None, workers: int
) -> None:
    free = free_batches if free_batches is None else free_batches * 100 * 32 * 32 * 3
    monkeypatch.setattr("cifar_lit.data.workers.free_shared_memory", lambda: free)
    data = ImageDataModule("digits", val_size=0, batch_size=100, num_workers=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert data.train_dataloader().num_workers == workers
    warned = [str(warning.message) for warning in caught if "/dev/shm" in str(warning.message)]
    assert len(warned) == (workers < 4) and all("data.num_workers" in text and "--shm-size" in text for text in warned)


@pytest.mark.skipif(sys.platform != "linux", reason="the workers inherit the patched function")
def test_waiting_for_a_worker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageDataset, "__getitems__", lambda *_: time.sleep(1000))
    loader = ImageDataModule("digits", val_size=0, num_workers=1, process_timeout=1).train_dataloader()
    with pytest.raises(RuntimeError) as error:
        next(iter(loader))
    message = worker_failure(error.value)
    assert message and all(words in message for words in ("process_timeout", "/dev/shm", "data.num_workers"))
    for worker in multiprocessing.active_children():
        with suppress(RuntimeError):  # torch's signal handler may report its end while this waits
            worker.join(10)
        worker.join(10)
        assert not worker.is_alive()


@pytest.mark.parametrize("green", [0, 255])
@pytest.mark.parametrize("different", [0, 1])
def test_constant_channel(splits: DataSplits, green: int, different: int) -> None:
    images = np.tile(splits.train.images, (20, 1, 1, 1))
    images[..., 1] = green
    images[0, 0, :different, 1] = 255 - green
    data = ImageDataModule("digits", val_size=0)
    statistics = channel_statistics(images)
    vars(data)["splits"] = DataSplits(
        Split(images, np.tile(splits.train.labels, 20)), splits.test, splits.classes, *statistics
    )
    with pytest.warns(UserWarning, match=r"constant in green.*data\.root"):
        assert data.std == (statistics[1][0], 1 / 255, statistics[1][2])
    pixels = Normalize(data.mean, data.std)(torch.from_numpy(images[:60]))
    assert pixels.isfinite().all() and pixels.abs().max() <= 255


def test_val_size_0_trains_on_all_images() -> None:
    data = ImageDataModule("digits", val_size=0, image_size=8)
    assert len(data.train_dataset) == 1437
    assert data.val_dataloader() == []


INVALID = {"batch_size": 0, "train_eval_size": 0, "val_size": -1, "num_workers": -1, "image_size": 0, "seed": -1}
INVALID |= {"crop_padding": -1, "flip": 1.5, "rotate_degrees": -1.0, "cutout_size": -1, "cutout_warmup_epochs": -1}


@pytest.mark.parametrize("option", INVALID)
def test_invalid_option_is_named(option: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.{option} must be"):
        ImageDataModule("digits", **{option: INVALID[option]})


def test_too_large_validation_set_is_refused() -> None:
    for size in (1437, 1428, 0.999):
        with pytest.raises(UsageError, match=rf"data\.val_size={size} .*1437 images; .*--data.val_size 143"):
            ImageDataModule("digits", val_size=size).setup("fit")
    ImageDataModule("digits", val_size=1427).setup("fit")


def test_fraction_is_held_out_for_validation() -> None:
    tenth, number = (ImageDataModule("digits", val_size=size, seed=0) for size in (0.1, 144))
    assert tenth.val_dataset.indices.tolist() == number.val_dataset.indices.tolist()
    assert len(ImageDataModule("digits", val_size=1e-9).val_dataset) == 1


@pytest.mark.parametrize("val_size", [1, 30, 56, 0.5])
def test_rare_classes_are_trained_on(splits: DataSplits, val_size: float) -> None:
    labels = np.array([0] * 55 + [1] * 3 + [2] + [3], np.int64)
    classes = ("ape", "bee", "cat", "dog")
    data = ImageDataModule("digits", val_size=val_size, seed=0)
    vars(data)["splits"] = replace(splits, train=Split(splits.train.images, labels), classes=classes)
    with pytest.warns(UserWarning, match=r"2 classes with a single training image.*data\.val_size.*cat, dog"):
        data.setup("fit")
    assert set(labels[data.train_dataset.indices]) == {0, 1, 2, 3}


def test_first_validation_batch_has_every_class() -> None:
    loader = ImageDataModule("digits", val_size=400, batch_size=256).val_dataloader()
    assert set(next(iter(loader)).labels.tolist()) == set(range(10))
