"""Pictures a batch at a time, and how they are shared out among processes."""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from cifar_lit.augment_options import picture_key
from cifar_lit.pictures import Split

if TYPE_CHECKING:
    from cifar_lit.augment import Augmentation

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
        augmentation: "Augmentation | None" = None,
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
            images = self.augmentation(images, map(picture_key, repeat(self.seed), epochs, indices.tolist()))
        return Batch(*map(torch.from_numpy, (images, self.split.labels[indices], indices)))

    def fetch(self, positions: NDArray[np.int64]) -> Batch:
        """Return the pictures at the given positions, as in the first epoch."""
        return self.__getitems__([(0, position) for position in positions.tolist()])


class TrainSampler(DistributedSampler[Key]):
    """Shuffled (epoch, position) pairs of one process.

    Where the training is is asked for when the iteration begins, so a resumed one goes on at the right place. All
    processes together walk through one common order, interleaved: n processes with a batch of B / n see what one with B
    sees. Being a DistributedSampler keeps Lightning from putting its own in its place.

    Args:
        dataset: The pictures.
        seed: With the epoch the source of the order.
        progress: Tells the epoch, and how many of its batches are done.
        batch_size: Pictures a batch in each process.
        rank: This process.
        world_size: How many there are.
    """

    def __init__(
        self,
        dataset: PictureDataset,
        seed: int,
        progress: Callable[[], tuple[int, int]],
        batch_size: int,
        rank: int,
        world_size: int,
    ) -> None:
        super().__init__(dataset, world_size, rank, shuffle=True, seed=seed)
        self.size = len(dataset)
        self.progress = progress
        self.batch_size = batch_size

    def share(self) -> tuple[int, int, NDArray[np.int64]]:
        """Return the epoch, how many of its batches are done, and all of this process's positions in their order."""
        epoch, done = self.progress()
        order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
        padded = np.resize(order, self.total_size)  # processes must take equally many steps
        return epoch, done, padded[self.rank :: self.num_replicas]

    def __iter__(self) -> Iterator[Key]:
        """Yield what is left of this process's share of the epoch."""
        epoch, done, positions = self.share()
        return iter([(epoch, position) for position in positions[done * self.batch_size :].tolist()])


class EvalSampler(DistributedSampler[Key]):
    """Every position exactly once over all processes, in order, without padding."""

    def __init__(self, dataset: PictureDataset, rank: int, world_size: int) -> None:
        """Take the pictures, this process and how many there are."""
        super().__init__(dataset, world_size, rank, shuffle=False)
        self.positions = range(rank, len(dataset), world_size)

    def __iter__(self) -> Iterator[Key]:
        """Yield this process's share."""
        return ((0, position) for position in self.positions)

    def __len__(self) -> int:
        """Return the size of this process's share."""
        return len(self.positions)
