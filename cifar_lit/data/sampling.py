"""Which images, in which order, in which process."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from cifar_lit.data.dataset import ImageDataset, Key

Indices = NDArray[np.int64]


def stratified_split(labels: Indices, size: int, seed: int) -> tuple[Indices, Indices]:
    """Return the positions of the rest and of `size` held-out labels, both sorted.

    Every class contributes in proportion to its count, to within one (of many classes with a handful each, roughly).
    The same arguments give the same split.

    Args:
        labels: Shape `(N,)`, int64.
        size: How many to hold out, in 0..N.
        seed: Chooses which ones, 0 or more.

    Returns:
        Two int64 arrays of shapes `(N - size,)` and `(size,)`, disjoint and together 0..N-1.

    Raises:
        ValueError: `size` is outside 0..N.
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"cannot hold {size} of {len(labels)} out")
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class after class, at random within each
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.arange(len(labels)) - np.repeat(starts, counts)
    quantiles = (ranks + 0.5) / np.repeat(counts, counts)  # spreads each class evenly over 0..1
    chosen = np.argsort(quantiles, kind="stable")[:size]
    return np.sort(np.delete(order, chosen)), np.sort(order[chosen])


class TrainSampler(DistributedSampler[Key]):
    """Shuffled (epoch, position) pairs of one process.

    Where the training is is asked for when the iteration begins, so a resumed one goes on at the right place. All
    processes together walk through one common order, interleaved: n processes with a batch of B / n see what one with B
    sees. Being a DistributedSampler keeps Lightning from putting its own in its place.

    Args:
        dataset: The images.
        seed: With the epoch the source of the order.
        progress: Tells the epoch, and how many of its batches are done.
        batch_size: Images a batch in each process.
        rank: This process.
        world_size: How many there are.
    """

    def __init__(
        self,
        dataset: ImageDataset,
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

    def __init__(self, dataset: ImageDataset, rank: int, world_size: int) -> None:
        """Take the images, this process and how many there are."""
        super().__init__(dataset, world_size, rank, shuffle=False)
        self.positions = range(rank, len(dataset), world_size)

    def __iter__(self) -> Iterator[Key]:
        """Yield this process's share."""
        return ((0, position) for position in self.positions)

    def __len__(self) -> int:
        """Return the size of this process's share."""
        return len(self.positions)
