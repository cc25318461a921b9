"""The loaders as a real Trainer drives them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from cifar_lit.data.augment.config import AugmentOptions
from cifar_lit.data.augment.cpu import Augmentation
from cifar_lit.data.augment.device import DeviceAugmentation
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import Batch, DataSplits, ImageDataset, Split
from cifar_lit.data.loaders import DeviceLoader, LazyDataLoader, as_is
from cifar_lit.data.sampling import EvalSampler, TrainSampler
from cifar_lit.utils.errors import UsageError


class Seen(LightningModule):
    """Notes what it is given; learns nothing to speak of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[tuple[int, bytes]]] = {}
        self.held_out: list[int] = []
        self.options: dict[str, Any] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        assert batch.images.dtype == torch.uint8 and batch.labels.dtype == torch.int64
        seen = self.epochs.setdefault(self.current_epoch, [])
        seen += [(int(i), image.numpy().tobytes()) for i, image in zip(batch.indices, batch.images, strict=True)]
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.held_out += batch.indices.tolist()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder: Path, num_workers: int = 0, ckpt_path: str | None = None, **options: Any) -> Seen:
    data = ImageDataModule("digits", val_size=137, image_size=16, num_workers=num_workers, **{"seed": 3, **options})
    callbacks: list[Callback] = [
        ModelCheckpoint(folder, filename="{epoch}", auto_insert_metric_name=False, save_top_k=-1)
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
    )
    module = Seen()
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.fixture(scope="module", params=["workers", "device"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    folder = tmp_path_factory.mktemp("plain")
    seen = run(folder, augment_on=request.param)
    seen.options = {"augment_on": request.param}
    return folder, seen


def test_an_epoch_is_every_training_image_once_and_no_held_out_one(plain: tuple[Path, Seen]) -> None:
    _, seen = plain
    for epoch in range(3):
        indices = [index for index, _ in seen.epochs[epoch]]
        assert len(indices) == len(set(indices)) == 1300
        assert not set(indices) & set(seen.held_out)
    assert len(set(seen.held_out)) == 137


def test_no_image_looks_the_same_in_two_epochs_and_the_order_changes(plain: tuple[Path, Seen]) -> None:
    first, second = plain[1].epochs[0], plain[1].epochs[1]
    assert [i for i, _ in first] != [i for i, _ in second]
    same = sum(dict(first)[i] == dict(second)[i] for i in dict(first))
    assert same < 13  # 1 % meet by chance: two draws of the same crop, angle, flip and cutout


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(plain: tuple[Path, Seen], tmp_path: Path, num_workers: int) -> None:
    assert run(tmp_path, num_workers, **plain[1].options).epochs == plain[1].epochs


def test_another_batch_size_changes_the_batches_not_the_images(plain: tuple[Path, Seen], tmp_path: Path) -> None:
    assert run(tmp_path, batch_size=100, **plain[1].options).epochs == plain[1].epochs


def test_another_seed_changes_everything(plain: tuple[Path, Seen], tmp_path: Path) -> None:
    other = run(tmp_path, seed=4, **plain[1].options)
    assert set(other.held_out) != set(plain[1].held_out)
    assert not set(other.epochs[0]) & set(plain[1].epochs[0][:50])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_training_sees_what_the_whole_one_saw(
    plain: tuple[Path, Seen], tmp_path: Path, num_workers: int
) -> None:
    folder, seen = plain
    resumed = run(tmp_path, num_workers, ckpt_path=str(folder / "0.ckpt"), **seen.options)
    assert resumed.epochs == {epoch: seen.epochs[epoch] for epoch in (1, 2)}


def test_processes_together_see_what_one_sees(splits: DataSplits) -> None:
    dataset = ImageDataset(splits.train, np.arange(60))
    whole = list(TrainSampler(dataset, 0, lambda: (5, 0), 10, 0, 1))
    halves = [list(TrainSampler(dataset, 0, lambda: (5, 0), 5, rank, 2)) for rank in range(2)]
    for start in range(0, 30, 5):  # a batch of 10, or two of 5
        together = halves[0][start : start + 5] + halves[1][start : start + 5]
        assert sorted(together) == sorted(whole[2 * start : 2 * start + 10])
    odd = ImageDataset(splits.train, np.arange(59))
    thirds = [list(TrainSampler(odd, 0, lambda: (0, 0), 5, rank, 3)) for rank in range(3)]
    assert [len(third) for third in thirds] == [20, 20, 20]  # processes must take equally many steps
    assert {position for third in thirds for _, position in third} == set(range(59))


@pytest.mark.parametrize("device", [False, True], ids=["workers", "device"])
def test_an_epoch_is_gone_on_with_after_the_batches_that_are_done(splits: DataSplits, device: bool) -> None:
    dataset = ImageDataset(splits.train, np.arange(60), Augmentation(AugmentOptions(32, splits.mean)), seed=1)

    def batches(done: int) -> list[tuple[list[int], bytes]]:
        sampler = TrainSampler(dataset, 1, lambda: (5, done), 8, 0, 1)
        loader: DeviceLoader | LazyDataLoader
        if device:
            loader = DeviceLoader(dataset, sampler, DeviceAugmentation(AugmentOptions(32, splits.mean)), 8, True, "cpu")
        else:
            loader = LazyDataLoader(dataset, 8, sampler=sampler, collate_fn=as_is, drop_last=True)
        assert len(loader) == 7
        return [(batch.indices.tolist(), batch.images.numpy().tobytes()) for batch in loader]

    whole = batches(0)
    assert len(whole) == 7
    assert batches(3) == whole[3:]


def test_processes_together_see_what_one_sees_on_the_device(splits: DataSplits) -> None:
    dataset = ImageDataset(splits.train, np.arange(60), seed=1)
    augmentation = DeviceAugmentation(AugmentOptions(32, splits.mean))

    def seen(rank: int, world_size: int) -> dict[int, bytes]:
        sampler = TrainSampler(dataset, 1, lambda: (5, 0), 10 // world_size, rank, world_size)
        loader = DeviceLoader(dataset, sampler, augmentation, 10 // world_size, False, "cpu")
        assert len(loader) == 6
        batches = [zip(batch.indices.tolist(), batch.images.numpy(), strict=True) for batch in loader]
        return {index: image.tobytes() for batch in batches for index, image in batch}

    whole = seen(0, 1)
    assert len(whole) == 60
    assert seen(0, 2) | seen(1, 2) == whole


@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_samples_are_what_training_sees(tmp_path: Path, augment_on: str) -> None:
    data = ImageDataModule("digits", val_size=137, num_workers=0, batch_size=1300, augment_on=augment_on, seed=0)
    batch = next(iter(data.train_dataloader()))
    images = {int(i): image for i, image in zip(batch.indices, batch.images, strict=True)}
    samples = data.samples(np.array([3, 500]))
    for i, image in zip(samples.indices, samples.images, strict=True):
        assert (images[int(i)] == image).all()
        assert not (image.numpy() == data.splits.train.images[i]).all()


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_counts_each_image_once(splits: DataSplits, world_size: int) -> None:
    dataset = ImageDataset(splits.train, np.arange(59))
    samplers = [EvalSampler(dataset, rank, world_size) for rank in range(world_size)]
    assert Counter(position for sampler in samplers for _, position in sampler) == Counter(range(59))
    assert sum(map(len, samplers)) == 59


@pytest.mark.parametrize(("val_size", "world_size"), [(513, 2), (514, 2), (769, 3), (770, 3), (771, 3), (5, 4)])
def test_all_processes_have_equally_many_batches_to_validate(
    monkeypatch: pytest.MonkeyPatch, val_size: int, world_size: int
) -> None:
    counts, held_out = set(), []
    for rank in range(world_size):
        monkeypatch.setattr(ImageDataModule, "_place", lambda _, rank=rank: (rank, world_size))
        batches = list(ImageDataModule("digits", val_size=val_size, batch_size=64, seed=0).val_dataloader())
        counts.add(len(batches))
        held_out += [index for batch in batches for index in batch.indices.tolist()]
    assert len(counts) == 1 and len(set(held_out)) == len(held_out) == val_size


def test_a_training_is_gone_on_with_where_its_images_were_augmented() -> None:
    data = ImageDataModule("digits", val_size=137, seed=0, num_workers=0)
    assert isinstance(data.train_dataloader(), LazyDataLoader)
    data.load_state_dict({**data.state_dict(), "on_device": True})  # as a GPU with room would have had it
    assert isinstance(data.train_dataloader(), DeviceLoader) and data.state_dict()["on_device"]


@pytest.mark.parametrize(("size", "at_once"), [(32, 4096), (64, 1024), (512, 64)])
def test_large_images_are_augmented_fewer_at_once(size: int, at_once: int) -> None:
    split = Split(np.zeros((65, size, size, 3), np.uint8), np.zeros(65, np.int64))
    dataset = ImageDataset(split, np.arange(65))
    sampler = TrainSampler(dataset, 0, lambda: (0, 0), 64, 0, 1)
    loader = DeviceLoader(dataset, sampler, DeviceAugmentation(AugmentOptions(size, (0.5,) * 3)), 64, False, "cpu")
    assert loader.at_once == at_once and sum(len(batch.labels) for batch in loader) == 65


def test_a_batch_is_fetched_whole(splits: DataSplits) -> None:
    dataset = ImageDataset(splits.train, np.array([5, 7, 9]))
    batch = dataset.__getitems__([(0, 2), (0, 0)])
    assert batch.indices.tolist() == [9, 5]
    assert (batch.images.numpy() == splits.train.images[[9, 5]]).all()
    assert batch.labels.tolist() == splits.train.labels[[9, 5]].tolist()


def test_a_last_batch_of_one_is_left_out_of_training() -> None:
    data = ImageDataModule("digits", val_size=137, batch_size=433, image_size=8, num_workers=0)  # 1300 = 3 * 433 + 1
    assert len(data.train_dataloader()) == 3
    assert len(ImageDataModule("digits", val_size=137, batch_size=1, num_workers=0).train_dataloader()) == 1300
    on_device = ImageDataModule("digits", val_size=137, batch_size=433, image_size=8, augment_on="device")
    assert [len(batch.labels) for batch in on_device.train_dataloader()] == [433] * 3


def test_val_size_0_trains_on_everything() -> None:
    data = ImageDataModule("digits", val_size=0, image_size=8)
    assert len(data.train_dataset) == 1437
    assert data.val_dataloader() == []


@pytest.mark.parametrize(
    "option",
    [
        {"batch_size": 0},
        {"train_eval_size": 0},
        {"val_size": -1},
        {"num_workers": -1},
        {"image_size": 0},
        {"crop_padding": -1},
        {"flip": 1.5},
        {"rotate_degrees": -1.0},
        {"cutout_size": -1},
    ],
)
def test_values_out_of_range_are_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"data\.{next(iter(option))} must be"):
        ImageDataModule("digits", **option)


def test_too_large_a_validation_set_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.val_size=1437 leaves nothing to train on: digits has 1437"):
        ImageDataModule("digits", val_size=1437).setup("fit")


def test_the_first_validation_batch_holds_every_class() -> None:
    data = ImageDataModule("digits", val_size=400, batch_size=256)
    loader = data.val_dataloader()
    assert not isinstance(loader, list)
    assert set(next(iter(loader)).labels.tolist()) == set(range(10))
