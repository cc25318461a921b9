"""Decode images in batches, in worker processes, while the network computes."""

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cifar_lit.data.decode import UnreadableError
from cifar_lit.data.workers import fitting_workers, ignore_signals
from cifar_lit.inference.images import Item, pixels

TIMEOUT_S = 600  # for a batch; a worker whose shared memory is full never answers


class Batch(NamedTuple):
    """Images for the network.

    Attributes:
        images: Shape `(B, S, S, 3)`, uint8.
        files: The path of each image; None for an image that was not given as a file.
        unreadable: A message for each file that could not be decoded, with its path; it is not among the images.
    """

    images: Tensor
    files: list[str | None]
    unreadable: list[str]


class _Items:
    """A map-style dataset whose keys are the items themselves, so that a million files need no list."""

    def __getitems__(self, items: list[Item]) -> list[Item]:
        return items


def read_batches(items: Iterable[Item], size: int, batch_size: int, num_workers: int = 0) -> Iterator[Batch]:
    """Yield the images in order, in batches; read from `items` only as far ahead as the workers decode.

    Args:
        items: From `expand` or `image_files`.
        size: Height and width of the images for the network.
        batch_size: Images in a batch; fewer in one with unreadable files.
        num_workers: Processes that decode; 0 decodes in this one.

    Raises:
        RuntimeError: A worker has died or does not answer; see `worker_failure`. torch may raise it anywhere in the
            main thread.
    """
    iterator = iter(items)
    num_workers = fitting_workers("num_workers", num_workers, batch_size * size**2 * 3)
    dataset: Any = _Items()
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=iter(lambda: list(itertools.islice(iterator, batch_size)), []),
        num_workers=num_workers,
        timeout=TIMEOUT_S if num_workers else 0,
        collate_fn=partial(_decode, size),
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # does not advance the global one
    )
    yield from loader


def _decode(size: int, items: list[Item]) -> Batch:
    images, files, unreadable = [], list[str | None](), []
    for item in items:
        try:
            images.append(pixels(item, size))
            files.append(item if isinstance(item, str) else None)
        except UnreadableError as error:
            unreadable.append(str(error))
    stacked = np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)
    return Batch(torch.from_numpy(stacked), files, unreadable)
