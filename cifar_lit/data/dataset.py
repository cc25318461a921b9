"""Images and labels: splits of a data set, and a batch at a time."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cifar_lit.data.augment.config import augmentation_key

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Split:
    """Labelled images of one size.

    Attributes:
        images: Shape `(N, H, W, 3)`, uint8, RGB; possibly a read-only memory map.
        labels: Shape `(N,)`, int64, positions in `Images.classes`.
        listing: A text file with the names of the images' files, a NUL between them; None where there are none.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    listing: Path | None = None

    @cached_property
    def files(self) -> list[str] | None:
        """The name of each image's file to show, `<class>/...`, None where they come from none."""
        if self.listing is None:
            return None
        names = self.listing.read_text(encoding="utf-8", errors="replace").split("\0")
        return ["".join(c if c.isprintable() else "\ufffd" for c in name) for name in names]

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any pixel, label or the order (BLAKE2b)."""
        digest = hashlib.blake2b(f"{self.images.shape}".encode(), digest_size=16)
        for start in range(0, len(self), 1024):  # a memory map must not be read whole
            digest.update(np.ascontiguousarray(self.images[start : start + 1024]).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        """Tell a new process where a memory map lies; NumPy would send all of its pixels."""
        images = self.images
        if isinstance(images, np.memmap) and isinstance(images.base, mmap):  # the whole of it, no part
            return {**vars(self), "images": images.filename}
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map it there again."""
        images = state["images"]
        if not isinstance(images, np.ndarray):
            images = np.load(images, mmap_mode="r")
        vars(self).update(state, images=images)


@dataclass(frozen=True)
class DataSplits:
    """A data set.

    Attributes:
        train: The images to learn from; validation images are held out of them later.
        test: The images that are looked at once, at the end.
        classes: The class names; a label is a position in it.
        mean: Channel means of `train`, in 0..1.
        std: Channel standard deviations of `train`, in 0..1.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: Channels
    std: Channels


def channel_statistics(images: NDArray[np.uint8]) -> tuple[Channels, Channels]:
    """Return mean and (population) standard deviation per channel, each in 0..1.

    Args:
        images: Shape `(N, H, W, 3)`, uint8.
    """
    rows = images.reshape(-1, images.shape[2], 3)  # a view: OpenCV wants one tall image
    mean, std = cv2.meanStdDev(rows)
    return _channels(np.asarray(mean)), _channels(np.asarray(std))


def _channels(values: NDArray[np.float64]) -> Channels:
    red, green, blue = (float(value) / 255 for value in values.ravel())
    return red, green, blue


if TYPE_CHECKING:
    from cifar_lit.data.augment.cpu import Augmentation


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


class ImageDataset(Dataset[Batch]):
    """A selection of a split, fetched a batch at a time.

    Args:
        split: The images.
        indices: Shape `(M,)`, which of them.
        augmentation: How to change them; None leaves them as they are.
        seed: With epoch and index the source of all randomness, so that neither the number of workers nor that
            of processes changes any image.
    """

    def __init__(
        self,
        split: Split,
        indices: NDArray[np.int64],
        augmentation: "Augmentation | None" = None,
        seed: int = 0,
    ) -> None:
        self.split = split
        self.indices = indices
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of selected images."""
        return len(self.indices)

    def __getitem__(self, key: Key) -> Batch:
        """Return a batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Return the images of the given (epoch, position) pairs."""
        epochs, positions = zip(*keys, strict=True)
        indices = self.indices[list(positions)]
        images = self.split.images[indices]
        if self.augmentation is not None:
            images = self.augmentation(images, map(augmentation_key, repeat(self.seed), epochs, indices.tolist()))
        return Batch(*map(torch.from_numpy, (images, self.split.labels[indices], indices)))

    def fetch(self, positions: NDArray[np.int64]) -> Batch:
        """Return the images at the given positions, as in the first epoch."""
        return self.__getitems__([(0, position) for position in positions.tolist()])
