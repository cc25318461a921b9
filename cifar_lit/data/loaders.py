"""Data loaders: batches from worker processes, or from images that are stored on the device."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from cifar_lit.data.augment.device import DeviceAugmentation, pack
from cifar_lit.data.dataset import Batch, ImageDataset, Split
from cifar_lit.data.sampling import TrainSampler
from cifar_lit.utils.errors import RunError

AUGMENTED_PIXELS = 4096 * 32**2  # augmented at once on a device, to launch fewer kernels


class LazyDataLoader(DataLoader[Batch]):
    """A DataLoader that creates its workers when the first batch is requested.

    Lightning calls iter() before it restores the progress of a resumed run; workers started then would prepare
    other batches than the next ones.

    Attributes:
        data_time_s: Total time spent waiting for batches, in seconds.
    """

    data_time_s = 0.0
    others: Sequence[BaseProcess] | None = None  # child processes that are not our workers

    def __iter__(self) -> Any:
        """Yield the batches; if a worker has died or does not answer, end all: they ignore SIGTERM."""
        if self.others is None:
            self.others = multiprocessing.active_children()
        try:
            yield from _timed(self, super().__iter__)
        except RuntimeError:
            for worker in {*multiprocessing.active_children()} - {*self.others}:
                worker.kill()
            raise


class DeviceLoader:
    """Batches of training images that are stored and augmented on a device, without worker processes.

    The augmentation depends on seed, epoch and image only, not on the batch size or the number of processes.

    Args:
        dataset: The images, copied to the device now; its own augmentation is not used.
        sampler: The order.
        augmentation: The augmentation.
        batch_size: Images per batch.
        drop_last: Whether to drop an incomplete last batch.
        device: The device.

    Attributes:
        data_time_s: Total time spent waiting for batches, in seconds; on a GPU the time to launch the kernels.

    Raises:
        RunError: The images do not fit into the device's memory.
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
        try:
            self._store(dataset.split, dataset.indices)
        except torch.OutOfMemoryError:
            raise RunError(
                f"data.augment_on=device: {len(dataset)} images do not fit into the memory of {device}; use "
                "--data.augment_on workers"
            ) from None

    def _store(self, split: Split, indices: NDArray[np.int64]) -> None:
        device, batch_size = self.device, self.batch_size
        self.packed = torch.empty(len(indices), *split.images.shape[1:3], dtype=torch.int32, device=device)
        self.chunk_size = max(1, AUGMENTED_PIXELS // self.packed[0].numel() // batch_size) * batch_size
        for start in range(0, len(indices), self.chunk_size):  # in chunks: a memory map may be larger than the memory
            images = torch.from_numpy(split.images[indices[start : start + self.chunk_size]])
            self.packed[start : start + self.chunk_size] = pack(images.to(device))
        self.labels = torch.from_numpy(split.labels[indices]).to(device)
        self.indices = torch.from_numpy(indices).to(device)

    def __len__(self) -> int:
        """Return the number of batches."""
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining batches of the epoch."""
        yield from _timed(self, self._batches)

    def _batches(self) -> Iterator[Batch]:
        epoch, completed, order = self.sampler.epoch_order()
        order = order[completed * self.batch_size : len(self) * self.batch_size]
        draws = self.augmentation.draw(self.sampler.seed, epoch, len(self.packed))[order]
        chunks = (torch.split(torch.from_numpy(array).to(self.device), self.chunk_size) for array in (order, draws))
        for positions, numbers in zip(*chunks, strict=True):
            images = self.augmentation(self.packed[positions], numbers, epoch)
            chunk = (images, self.labels[positions], self.indices[positions])
            yield from map(Batch, *(torch.split(tensor, self.batch_size) for tensor in chunk))


def _timed(loader: LazyDataLoader | DeviceLoader, start: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    """Yield the batches of an iterator and add the time spent in it to `loader.data_time_s`."""
    started = time.perf_counter()
    for batch in start():
        loader.data_time_s += time.perf_counter() - started
        yield batch
        started = time.perf_counter()
    loader.data_time_s += time.perf_counter() - started


def as_is(batch: Any) -> Any:
    """Collate nothing: ImageDataset already returns batches."""
    return batch


def fits_on(device: torch.device, count: int, image_size: int) -> bool:
    """Return whether images, packed into 4 bytes per pixel, fit into half of the free memory of a CUDA GPU."""
    return device.type == "cuda" and count * image_size**2 * 4 < torch.cuda.mem_get_info(device)[0] / 2
