"""Splits of a data set, and the Dataset that yields batches of them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from cifar_lit.data.augment.config import augmentation_key

Channels = tuple[float, ...]
Images = NDArray[np.uint8]
Key = tuple[int, int]  # (epoch, position in the dataset)
MIN_STD = 1 / 255  # one gray level: divided by less, a few different pixels would become values of thousands


@dataclass(frozen=True)
class Split:
    """Labeled images of one size.

    Attributes:
        images: Shape `(N, H, W, 3)`, uint8, RGB; may be a read-only memory map.
        labels: Shape `(N,)`, int64, indices into `DataSplits.classes`.
        listing: A text file with the NUL-separated names of the image files; None if there are no files.
    """

    images: Images
    labels: NDArray[np.int64]
    listing: Path | None = None

    @cached_property
    def files(self) -> list[str] | None:
        """The images' file names for display, `<class>/...`; None if there are no files."""
        if self.listing is None:
            return None
        names = self.listing.read_text(encoding="utf-8", errors="replace").split("\0")
        return ["".join(c if c.isprintable() else "\ufffd" for c in name) for name in names]

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b hash of pixels, labels and order, 32 hexadecimal digits."""
        digest = hashlib.blake2b(f"{self.images.shape}".encode(), digest_size=16)
        for start in range(0, len(self), 1024):  # in blocks: a memory map may be larger than the memory
            digest.update(np.ascontiguousarray(self.images[start : start + 1024]).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a memory map by its file name, not by its pixels as NumPy would."""
        images: Any = self.images
        if isinstance(images, np.memmap) and isinstance(images.base, mmap):  # not a slice of a memory map
            images = images.filename
        return _unpickle_split, (images, self.labels, self.listing)


def _unpickle_split(images: Any, labels: NDArray[np.int64], listing: Path | None) -> Split:
    return Split(images if isinstance(images, np.ndarray) else np.load(images, mmap_mode="r"), labels, listing)


@dataclass(frozen=True)
class DataSplits:
    """A data set.

    Attributes:
        train: The training images, including those held out for validation later.
        test: The test images.
        classes: The class names, indexed by label.
        mean: Channel means of `train`, in 0..1.
        std: Channel standard deviations of `train`, in 0..1.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: Channels
    std: Channels


def channel_statistics(images: Images) -> tuple[Channels, Channels]:
    """Return mean and population standard deviation per channel, in 0..1.

    Args:
        images: Shape `(N, H, W, 3)`, uint8.
    """
    columns = images.reshape(-1, images.shape[2], 3)  # one tall image, without copying
    mean, std = (tuple((np.asarray(values).ravel() / 255).tolist()) for values in cv2.meanStdDev(columns))
    return mean, std


def at_least_min_std(std: Channels) -> Channels:
    """Return standard deviations of red, green and blue with those below MIN_STD replaced by it, and warn of them."""
    if constant := [name for name, value in zip(("red", "green", "blue"), std, strict=True) if value < MIN_STD]:
        rank_zero_warn(
            f"the training images are (almost) constant in {', '.join(constant)}: standardized with one gray level as "
            "the standard deviation; if this is not intended, check the images in data.root"
        )
    return tuple(max(value, MIN_STD) for value in std)


class Batch(NamedTuple):
    """One batch of a data loader.

    Attributes:
        images: Shape `(B, H, W, 3)`, uint8.
        labels: Shape `(B,)`, int64.
        indices: Shape `(B,)`, int64, positions in the split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class ImageDataset(Dataset[Batch]):
    """A subset of a split: `dataset[0]` is an image, its label and its index, `dataset.batch` returns several at once.

    Args:
        split: The images.
        indices: Shape `(M,)`, int64, the subset.
        augmentation: Maps images and their `augmentation_key`s, all of one epoch, to augmented images; None for no
            augmentation.
        seed: Seed of the augmentation. It depends on seed, epoch and index only, not on the number of workers or
            processes.
    """

    def __init__(
        self,
        split: Split,
        indices: NDArray[np.int64],
        augmentation: Callable[[Images, Sequence[int]], Images] | None = None,
        seed: int = 0,
    ) -> None:
        self.split = split
        self.indices = indices
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Return the size of the subset."""
        return len(self.indices)

    def __getitem__(self, key: int | Key) -> Batch:
        """Return image `(H, W, 3)`, label and index at a position, as in the first epoch; or of (epoch, position)."""
        return Batch(*(values[0] for values in self.batch([key if isinstance(key, tuple) else (0, key)])))

    def __getitems__(self, keys: list[int] | list[Key]) -> Batch | list[Batch]:
        """Return a batch of (epoch, position) pairs, or for the positions of other samplers a list of images."""
        if isinstance(keys[0], tuple):
            return self.batch(keys)
        return [self[key] for key in keys]

    def batch(self, keys: Sequence[Key]) -> Batch:
        """Return the images of the given (epoch, position) pairs."""
        epochs, positions = zip(*keys, strict=True)
        indices = self.indices[list(positions)]
        images = self.split.images[indices]
        if self.augmentation is not None:
            pairs = zip(epochs, indices.tolist(), strict=True)
            images = self.augmentation(images, [augmentation_key(self.seed, epoch, index) for epoch, index in pairs])
        return Batch(*map(torch.from_numpy, (images, self.split.labels[indices], indices)))

    def fetch(self, positions: NDArray[np.int64]) -> Batch:
        """Return the images at the given positions, as in the first epoch."""
        return self.batch([(0, position) for position in positions.tolist()])
