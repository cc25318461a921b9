"""From a split to batches, and how the pictures are shared out among processes."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from cifar_lit.device_augment import DeviceAugmentation, pack
from cifar_lit.pictures import Split

if TYPE_CHECKING:
    from cifar_lit.augment import Augmentation

Key = tuple[int, int]  # (epoch, position in the data set)
AT_ONCE = 4096  # pictures that are augmented together on a device, to launch few operations


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
            seeds = (self.seed << 64 | epoch << 32 | int(index) for epoch, index in zip(epochs, indices, strict=True))
            images = self.augmentation(images, seeds)
        return Batch(*map(torch.from_numpy, (images, self.split.labels[indices], indices)))

    def fetch(self, positions: NDArray[np.int64]) -> Batch:
        """Return the pictures at the given positions, as in the first epoch."""
        return self.__getitems__([(0, position) for position in positions.tolist()])


class LazyLoader(DataLoader[Batch]):
    """A loader whose workers begin with the first batch that is asked for.

    Lightning makes the first iterator before it knows where a resumed training is; workers that began at once would
    prepare the wrong batches.

    Attributes:
        waited: Seconds that all calls for a next batch took so far.
    """

    waited = 0.0

    def __iter__(self) -> Any:
        """Yield the batches."""
        yield from _timed(self, super().__iter__)


class DeviceLoader:
    """Batches of training pictures that lie on a device and are augmented there, without any other process.

    Each change depends on seed, epoch and picture alone, whatever the batch size and the number of processes.

    Args:
        dataset: Which pictures; its own augmentation is not used. They are copied to the device now.
        sampler: The order.
        augmentation: How to change them.
        batch_size: Pictures a batch.
        drop_last: Whether to leave out an incomplete last batch.
        device: Where.

    Attributes:
        waited: Seconds that all calls for a next batch took so far; on a GPU, which works on meanwhile, those of
            launching the work.
    """

    def __init__(
        self,
        dataset: PictureDataset,
        sampler: "TrainSampler",
        augmentation: DeviceAugmentation,
        batch_size: int,
        drop_last: bool,
        device: torch.device | str,
    ) -> None:
        self.sampler = sampler
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.device = device
        self.waited = 0.0
        split, indices = dataset.split, dataset.indices
        self.words = torch.empty(len(indices), *split.images.shape[1:3], dtype=torch.int32, device=device)
        for start in range(0, len(indices), AT_ONCE):  # a memory map must not be read whole
            images = torch.from_numpy(split.images[indices[start : start + AT_ONCE]])
            self.words[start : start + AT_ONCE] = pack(images.to(device))
        self.labels = torch.from_numpy(split.labels[indices]).to(device)
        self.indices = torch.from_numpy(indices).to(device)

    def __len__(self) -> int:
        """Return the number of batches."""
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        yield from _timed(self, self._batches)

    def _batches(self) -> Iterator[Batch]:
        epoch, done, order = self.sampler.share()
        order = order[done * self.batch_size : len(self) * self.batch_size]
        draws = self.augmentation.draw(self.sampler.seed, epoch, len(self.words))[order]
        positions, numbers = torch.from_numpy(order).to(self.device), torch.from_numpy(draws).to(self.device)
        at_once = max(1, AT_ONCE // self.batch_size) * self.batch_size
        for part, drawn in zip(torch.split(positions, at_once), torch.split(numbers, at_once), strict=True):
            changed = Batch(self.augmentation(self.words[part], drawn), self.labels[part], self.indices[part])
            yield from map(Batch, *(torch.split(whole, self.batch_size) for whole in changed))


def _timed(loader: LazyLoader | DeviceLoader, begin: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    """Yield what an iterator yields and add up in `loader.waited` how long it takes."""
    batches = None
    while True:
        began = time.perf_counter()
        batches = batches or begin()
        batch = next(batches, None)
        loader.waited += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def as_is(batch: Any) -> Any:
    """Collate nothing: the data set already returns whole batches."""
    return batch


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
