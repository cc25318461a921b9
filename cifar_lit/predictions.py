"""What a network says about every picture of a split: one exact pass, shared among processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist
from torch import nn
from tqdm import tqdm

from cifar_lit.pictures import Split

BATCH_SIZE = 256


@dataclass(frozen=True)
class Predictions:
    """What a network says about M pictures.

    Attributes:
        indices: Shape `(M,)`, int64, positions in the split, ascending.
        labels: Shape `(M,)`, int64, the true classes.
        log_probabilities: Shape `(M, C)`, float64, natural logarithms.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    log_probabilities: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Shape `(M, C)`, each row sums to 1."""
        return np.exp(self.log_probabilities)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Shape `(M,)`, the most probable classes."""
        predicted: NDArray[np.int64] = self.log_probabilities.argmax(axis=1)
        return predicted

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Shape `(M,)`, the cross entropy of each picture, in nats."""
        return -self.log_probabilities[np.arange(len(self)), self.labels]

    @property
    def loss(self) -> float:
        """Mean cross entropy, in nats."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of right predictions, 0..1."""
        return float((self.predicted == self.labels).mean())

    @cached_property
    def errors(self) -> NDArray[np.int64]:
        """Rows of the wrong predictions, the most wrong (the highest loss) first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.losses[wrong], kind="stable")]

    def class_accuracy(self) -> NDArray[np.float64]:
        """Return the share of right predictions among the pictures of each true class, `(C,)`; nan where none."""
        classes = self.log_probabilities.shape[1]
        count = np.bincount(self.labels, minlength=classes)
        right = np.bincount(self.labels[self.predicted == self.labels], minlength=classes)
        with np.errstate(invalid="ignore"):
            return right / count


def predict(
    net: nn.Module,
    split: Split,
    indices: NDArray[np.int64] | None = None,
    *,
    device: torch.device | str = "cpu",
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: str | None = None,
) -> Predictions:
    """Run a network once over the given pictures.

    Where torch.distributed is initialised, every process must call this; each takes every n-th batch, and all
    return the same whole. The batches are the same for any number of processes, and so are the figures.

    Args:
        net: Maps uint8 `(B, H, W, 3)` to logits `(B, C)`; must be in evaluation mode and on `device`.
        split: The pictures, without augmentation.
        indices: Which of them, ascending; None for all.
        device: Where to compute.
        context: Entered around each forward pass, for mixed precision.
        progress: Name of a progress bar on the screen of the first process; None for no bar.
    """
    indices = np.arange(len(split)) if indices is None else indices
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    starts = range(rank * BATCH_SIZE, len(indices), world_size * BATCH_SIZE)
    bar = tqdm(starts, desc=progress, unit="batch", leave=False, disable=None if progress and rank == 0 else True)
    rows = []
    with torch.inference_mode():
        for start in bar:
            images = torch.from_numpy(split.images[indices[start : start + BATCH_SIZE]])
            with context():
                logits = net(images.to(device))
            rows.append((start, logits.float().cpu().double().log_softmax(1).numpy()))
    rows = sorted((row for share in _gather(rows) for row in share), key=lambda row: row[0])
    classes = rows[0][1].shape[1]
    table = np.concatenate([row for _, row in rows]).reshape(len(indices), classes)
    return Predictions(indices, split.labels[indices], table)


def _gather(share: list[tuple[int, NDArray[np.float64]]]) -> list[list[tuple[int, NDArray[np.float64]]]]:
    if not _distributed():
        return [share]
    shares: list[list[tuple[int, NDArray[np.float64]]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, share)
    return shares


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
