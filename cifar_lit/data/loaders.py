"""The loaders: batches from worker processes, or from images that lie on the device."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from cifar_lit.data.augment.device import DeviceAugmentation, pack
from cifar_lit.data.dataset import Batch, ImageDataset
from cifar_lit.data.sampling import TrainSampler

AT_ONCE = 4096 * 32**2  # pixels that are augmented together on a device, to launch few operations


class LazyDataLoader(DataLoader[Batch]):
    """A loader whose workers begin with the first batch that is asked for.

    Lightning makes the first iterator before it knows where a resumed training is; workers that began at once would
    prepare the wrong batches.

    Attributes:
        waited: Seconds that all calls for a next batch took so far.
    """

    data_time_s = 0.0

    def __iter__(self) -> Any:
        """Yield the batches."""
        yield from _timed(self, super().__iter__)


class DeviceLoader:
    """Batches of training images that lie on a device and are augmented there, without any other process.

    Each change depends on seed, epoch and image alone, whatever the batch size and the number of processes.

    Args:
        dataset: Which images; its own augmentation is not used. They are copied to the device now.
        sampler: The order.
        augmentation: How to change them.
        batch_size: Images a batch.
        drop_last: Whether to leave out an incomplete last batch.
        device: Where.

    Attributes:
        waited: Seconds that all calls for a next batch took so far; on a GPU, which works on meanwhile, those of
            launching the work.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: TrainSampler,
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
        self.data_time_s = 0.0
        split, indices = dataset.split, dataset.indices
        self.words = torch.empty(len(indices), *split.images.shape[1:3], dtype=torch.int32, device=device)
        self.at_once = max(1, AT_ONCE // self.words[0].numel() // batch_size) * batch_size
        for start in range(0, len(indices), self.at_once):  # a memory map must not be read whole
            images = torch.from_numpy(split.images[indices[start : start + self.at_once]])
            self.words[start : start + self.at_once] = pack(images.to(device))
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
        parts = zip(torch.split(positions, self.at_once), torch.split(numbers, self.at_once), strict=True)
        for part, drawn in parts:
            changed = Batch(self.augmentation(self.words[part], drawn, epoch), self.labels[part], self.indices[part])
            yield from map(Batch, *(torch.split(whole, self.batch_size) for whole in changed))


def _timed(loader: LazyDataLoader | DeviceLoader, begin: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    """Yield what an iterator yields and add up in `loader.waited` how long it takes."""
    batches = None
    while True:
        began = time.perf_counter()
        batches = batches or begin()
        batch = next(batches, None)
        loader.data_time_s += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def as_is(batch: Any) -> Any:
    """Collate nothing: the data set already returns whole batches."""
    return batch
