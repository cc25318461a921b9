"""From a source to batches: the data set, how it is shared among processes, the LightningDataModule."""

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from cifar_lit.augment import Augmentation
from cifar_lit.errors import UsageError
from cifar_lit.pictures import Pictures, Split
from cifar_lit.sources import load
from cifar_lit.splits import stratified_split

Source = Literal["cifar10", "cifar100", "folder", "digits"]
Key = tuple[int, int]  # (epoch, position in the data set)


class Batch(NamedTuple):
    """What a loader yields.

    Attributes:
        images: Shape `(B, H, W, 3)`, uint8.
        labels: Shape `(B,)`, int64.
        indices: Shape `(B,)`, int64, positions in the source's split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class PictureDataset(Dataset[Batch]):
    """A selection of a split, fetched a batch at a time.

    Args:
        split: The pictures.
        indices: Shape `(M,)`, which of them.
        augmentation: How to change them; None leaves them as they are.
        seed: With epoch and index the source of all randomness, so that neither the number of workers nor that
            of processes changes any picture.
    """

    def __init__(
        self,
        split: Split,
        indices: NDArray[np.int64],
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.split = split
        self.indices = indices
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of selected pictures."""
        return len(self.indices)

    def __getitem__(self, key: Key) -> Batch:
        """Return a batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Return the pictures of the given (epoch, position) pairs."""
        epochs, positions = zip(*keys, strict=True)
        indices = self.indices[list(positions)]
        images = self.split.images[indices]
        if self.augmentation is not None:
            seeds = (
                self.seed << 64 | epoch << 32 | int(index) for epoch, index in zip(epochs, indices, strict=True)
            )
            images = self.augmentation(images, seeds)
        return Batch(*map(torch.from_numpy, (images, self.split.labels[indices], indices)))


def as_is(batch: Batch) -> Batch:
    """Collate nothing: the data set already returns whole batches."""
    return batch


class TrainSampler(DistributedSampler[Key]):
    """Shuffled (epoch, position) pairs of one process.

    The epoch is asked for when an epoch begins, so a resumed training goes on with the right one. All processes
    together walk through one common order, interleaved: n processes with a batch of B / n see what one with B sees.
    Being a DistributedSampler keeps Lightning from putting its own in its place.
    """

    def __init__(self, size: int, seed: int, epoch: Callable[[], int], rank: int, world_size: int) -> None:
        """Take the number of pictures, the seed, who tells the epoch, this process and how many there are."""
        super().__init__(range(size), world_size, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.current_epoch = epoch

    def __iter__(self) -> Iterator[Key]:  # type: ignore[override]
        """Yield this process's share of one epoch."""
        epoch = self.current_epoch()
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))  # type: ignore[arg-type]
        padded = np.resize(order, self.total_size)  # processes must take equally many steps
        return iter([(epoch, int(position)) for position in padded[self.rank :: self.num_replicas]])


class EvalSampler(DistributedSampler[Key]):
    """Every position exactly once over all processes, in order, without padding."""

    def __init__(self, size: int, rank: int, world_size: int) -> None:
        """Take the number of pictures, this process and how many there are."""
        super().__init__(range(size), world_size, rank, shuffle=False)  # type: ignore[arg-type]
        self.positions = range(rank, size, world_size)

    def __iter__(self) -> Iterator[Key]:  # type: ignore[override]
        """Yield this process's share."""
        return ((0, position) for position in self.positions)

    def __len__(self) -> int:
        """Return the size of this process's share."""
        return len(self.positions)


class PictureData(LightningDataModule):
    """Pictures for training, validation and test.

    Args:
        source: `cifar10` and `cifar100` (downloaded once), `folder` (your own pictures, see root) or `digits`
            (scikit-learn's handwritten digits, built in).
        root: Where the pictures are. cifar10, cifar100: the folder to download into. folder: the folder that
            holds `train/<class>/*` and `test/<class>/*`.
        image_size: Height and width in pixels that the network sees, 8 or more; other pictures are resized.
        val_size: Training pictures held out for validation, class by class in proportion, 0 or more. 0 trains on
            everything and keeps the last weights.
        batch_size: Pictures a training step in each process, 1 or more.
        num_workers: Processes that prepare batches, 0 or more; 0 does it in the training process. Default: one for
            each core that this process may use, at most 8.
        crop_padding: Pixels added on each side before cropping back at random, 0 or more; 0 turns it off.
        flip: Probability of a horizontal flip, 0 to 1; 0 turns it off.
        rotate_degrees: Largest angle of the random rotation in either direction, 0 to 180; 0 turns it off.
        cutout_size: Side of the square that is blanked out, in pixels, 0 or more; 0 turns it off.
        mirrors: Other addresses (http, https, file) of the data set's archive, tried in turn before the original.
        cache_dir: Where decoded folders are kept for the next run.
        seed: Seed of the held-out selection, the order and the augmentation. Default: that of seed_everything.
    """

    def __init__(
        self,
        source: Source = "cifar10",
        root: str = "data",
        image_size: int = 32,
        val_size: int = 5000,
        batch_size: int = 512,
        num_workers: int | None = None,
        crop_padding: int = 4,
        flip: float = 0.5,
        rotate_degrees: float = 5.0,
        cutout_size: int = 16,
        mirrors: list[str] | None = None,
        cache_dir: str = "data/cache",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        ranges = {
            "image_size": ("8 or more", image_size >= 8),
            "val_size": ("0 or more", val_size >= 0),
            "batch_size": ("1 or more", batch_size >= 1),
            "num_workers": ("0 or more", num_workers is None or num_workers >= 0),
            "crop_padding": ("0 or more", crop_padding >= 0),
            "flip": ("between 0 and 1", 0 <= flip <= 1),
            "rotate_degrees": ("between 0 and 180", 0 <= rotate_degrees <= 180),
            "cutout_size": ("0 or more", cutout_size >= 0),
            "seed": ("0 or more", seed is None or seed >= 0),
        }
        given = locals()
        for option, (allowed, ok) in ranges.items():
            if not ok:
                raise UsageError(f"data.{option} must be {allowed}, got {given[option]}")
        self.source: Source = source
        self.root = root
        self.image_size = image_size
        self.val_size = val_size
        self.batch_size = batch_size
        self.num_workers = available_cores() if num_workers is None else num_workers
        self.crop_padding = crop_padding
        self.flip = flip
        self.rotate_degrees = rotate_degrees
        self.cutout_size = cutout_size
        self.mirrors = mirrors or []
        self.cache_dir = cache_dir
        # Lightning's own convention: seed_everything leaves its seed here for everything that comes later.
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed

    @cached_property
    def pictures(self) -> Pictures:
        """The data set, loaded (and downloaded or decoded, once among all processes) at first use."""
        return load(
            self.source,
            root=self.root,
            image_size=self.image_size,
            mirrors=self.mirrors,
            cache_dir=self.cache_dir,
            num_workers=self.num_workers,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.pictures.classes)

    @property
    def mean(self) -> tuple[float, float, float]:
        """Channel means of the training pictures, in 0..1."""
        return self.pictures.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Channel standard deviations of the training pictures, in 0..1."""
        return self.pictures.std

    @cached_property
    def _selection(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the pictures to train on and of those held out."""
        labels = self.pictures.train.labels
        if self.val_size >= len(labels):
            raise UsageError(
                f"data.val_size={self.val_size} leaves nothing to train on: {self.source} has {len(labels)} "
                f"training pictures; give a smaller one (--data.val_size {len(labels) // 10}, say)"
            )
        return stratified_split(labels, self.val_size, self.seed)

    @cached_property
    def train_dataset(self) -> PictureDataset:
        """The pictures to train on, augmented."""
        augmentation = Augmentation(
            self.image_size, self.mean, self.crop_padding, self.rotate_degrees, self.flip, self.cutout_size
        )
        return PictureDataset(self.pictures.train, self._selection[0], augmentation, self.seed)

    @cached_property
    def val_dataset(self) -> PictureDataset:
        """The held-out pictures, as they are."""
        return PictureDataset(self.pictures.train, self._selection[1])

    @cached_property
    def test_dataset(self) -> PictureDataset:
        """The test pictures, as they are."""
        return PictureDataset(self.pictures.test, np.arange(len(self.pictures.test)))

    def prepare_data(self) -> None:
        """Load in the first process of each machine before the others do."""
        _ = self.pictures

    def setup(self, stage: str) -> None:
        """Fail early where the data cannot be used."""
        _ = self._selection

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return batches of augmented training pictures, in a new order each epoch."""
        rank, world_size = self._place()
        sampler = TrainSampler(len(self.train_dataset), self.seed, self._current_epoch, rank, world_size)
        # BatchNorm cannot learn from a single picture: a last batch of one is left out.
        drop_last = len(sampler) > self.batch_size > 1 == len(sampler) % self.batch_size
        return self._loader(self.train_dataset, sampler, self.batch_size, self.num_workers, drop_last)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return batches of held-out pictures; an empty list if there are none."""
        if not self.val_size:
            return []
        _, world_size = self._place()
        if self.val_size < world_size:
            raise UsageError(f"data.val_size={self.val_size} is less than the number of processes, {world_size}")
        return self._eval_loader(self.val_dataset)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return batches of test pictures, in order."""
        return self._eval_loader(self.test_dataset)

    def _eval_loader(self, dataset: PictureDataset) -> DataLoader[Batch]:
        # Slicing an array is all there is to do: no workers. Nothing is learnt either, so a training batch of 4
        # need not slow the evaluation down.
        sampler = EvalSampler(len(dataset), *self._place())
        return self._loader(dataset, sampler, max(self.batch_size, 256))

    def _loader(
        self,
        dataset: PictureDataset,
        sampler: DistributedSampler[Key],
        batch_size: int,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            drop_last=drop_last,
            collate_fn=as_is,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
        )

    def _current_epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def available_cores(most: int = 8) -> int:
    """Return how many cores this process may use, `most` at most."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), most)
    return min(os.cpu_count() or 1, most)
