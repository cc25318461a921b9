"""Which images are used, in which order, by which process, and how many at once."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DistributedSampler

from cifar_lit.data.dataset import ImageDataset, Key
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.text import counted

Indices = NDArray[np.int64]


def stratified_split(labels: Indices, size: int, seed: int) -> tuple[Indices, Indices]:
    """Split the positions 0..N-1 into two parts, the second of `size` positions, stratified by label.

    The second part has the classes in proportion to their counts, to within 1 (roughly, for many tiny classes), but the
    last image of each only if `size` leaves none but such.

    Args:
        labels: Shape `(N,)`, int64.
        size: Number of positions in the second part, 0 to N.
        seed: Seed of the selection, 0 or more.

    Returns:
        Two sorted int64 arrays of shapes `(N - size,)` and `(size,)`.

    Raises:
        ValueError: `size` is outside 0..N.
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"cannot hold out {size} of {len(labels)} images")
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # grouped by class, shuffled within each
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.arange(len(labels)) - np.repeat(starts, counts)
    quantiles = (ranks + 0.5) / np.repeat(counts, counts)  # spreads each class evenly over 0..1
    quantiles[starts + counts - 1] = 1
    chosen = np.argsort(quantiles, kind="stable")[:size]
    return np.sort(np.delete(order, chosen)), np.sort(order[chosen])


def train_val_split(labels: Indices, classes: Sequence[str], val_size: float, seed: int) -> tuple[Indices, Indices]:
    """Split the training images into those to train on, at least one of each class, and the validation images.

    Args:
        labels: Shape `(N,)`, int64.
        classes: The class names.
        val_size: Number of validation images, or their fraction, above 0 and below 1.
        seed: Seed of the selection, 0 or more.

    Returns:
        Two sorted int64 arrays of positions.

    Raises:
        UsageError: Too many images are held out.
    """
    size = max(1, round(val_size * len(labels))) if 0 < val_size < 1 else int(val_size)
    most = len(labels) - len(np.unique(labels))
    if size > most:
        raise UsageError(
            f"data.val_size={val_size} does not leave a training image of each class: there are {len(labels)} images; "
            f"use fewer, for example --data.val_size {min(most, len(labels) // 10)}"
        )
    single = [classes[label] for label in np.flatnonzero(np.bincount(labels) == 1).tolist()]
    if single and size:
        rank_zero_warn(
            f"{counted(len(single), 'class')} with a single training image, which is not held out: validation "
            f"(data.val_size) does not see {', '.join(single[:5])}{', ...' * (len(single) > 5)}"
        )
    return stratified_split(labels, size, seed)


class TrainSampler(DistributedSampler[Key]):
    """Shuffled (epoch, position) pairs of one process, resumable within an epoch.

    All processes interleave one common order: n processes with batch size B / n see the batches of one process with
    batch size B. It is a DistributedSampler so that Lightning does not replace it.

    Args:
        dataset: The images.
        seed: Seed of the order, together with the epoch.
        progress: Returns the current epoch and its number of completed batches; called when an iteration starts, so
            that a resumed run continues where it stopped.
        batch_size: Batch size of each process.
        rank: Rank of this process.
        world_size: Number of processes.
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

    def epoch_order(self) -> tuple[int, int, Indices]:
        """Return the epoch, its number of completed batches, and all positions of this process in order."""
        epoch, completed = self.progress()
        order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
        padded = np.resize(order, self.total_size)  # all processes must take the same number of steps
        return epoch, completed, padded[self.rank :: self.num_replicas]

    def __iter__(self) -> Iterator[Key]:
        """Yield the remaining pairs of the epoch."""
        epoch, completed, positions = self.epoch_order()
        return iter([(epoch, position) for position in positions[completed * self.batch_size :].tolist()])


class EvalSampler(DistributedSampler[Key]):
    """Every position exactly once over all processes, in order, without padding."""

    def __init__(self, dataset: ImageDataset, rank: int, world_size: int) -> None:
        """Take every `world_size`-th position, starting at `rank`."""
        super().__init__(dataset, world_size, rank, shuffle=False)
        self.positions = range(rank, len(dataset), world_size)

    def __iter__(self) -> Iterator[Key]:
        """Yield (0, position) pairs."""
        return ((0, position) for position in self.positions)

    def __len__(self) -> int:
        """Return the number of positions of this process."""
        return len(self.positions)
