"""What a network says about every image of a split: one exact pass, shared among processes."""

import csv
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from tqdm import tqdm

from cifar_lit.data.dataset import Split
from cifar_lit.data.sampling import eval_batch_size
from cifar_lit.utils.files import atomic_write, plain_cell, safe_cell

COLUMNS = ("index", "true", "predicted", "margin", "loss")  # of the CSV, before one column for each class


@dataclass(frozen=True)
class Predictions:
    """What a network says about M images.

    Attributes:
        indices: Shape `(M,)`, int64, positions in the split, ascending.
        labels: Shape `(M,)`, int64, the true classes.
        log_probabilities: Shape `(M, C)`, float64, natural logarithms.
        features: Shape `(M, D)`, float32, what the network's last layer was given; None where they were not kept.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    log_probabilities: NDArray[np.float64]
    features: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
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

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Shape `(M,)`, the probability of the prediction, 0..1."""
        highest: NDArray[np.float64] = self.probabilities.max(axis=1)
        return highest

    @cached_property
    def margins(self) -> NDArray[np.float64]:
        """Shape `(M,)`, the probability of the true class less the highest other one, -1..1; errors are below 0."""
        rows = np.arange(len(self))
        others = self.probabilities.copy()
        others[rows, self.labels] = -1
        margins: NDArray[np.float64] = self.probabilities[rows, self.labels] - others.max(axis=1)
        return margins

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Shape `(M,)`, the cross entropy of each image, in nats."""
        return 0 - self.log_probabilities[np.arange(len(self)), self.labels]  # no -0

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


def predict(
    net: nn.Module,
    split: Split,
    indices: NDArray[np.int64] | None = None,
    *,
    device: torch.device | str = "cpu",
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: str | None = None,
    last: nn.Module | None = None,
    mirrored: bool = False,
) -> Predictions:
    """Run a network once over the given images.

    Where torch.distributed is initialised, every process must call this; each takes every n-th batch, and all
    return the same whole. The batches are the same for any number of processes, and so are the figures.

    Args:
        net: Maps uint8 `(B, H, W, 3)` to logits `(B, C)`; must be in evaluation mode and on `device`.
        split: The images, without augmentation.
        indices: Which of them, ascending; None for all.
        device: Where to compute.
        context: Entered around each forward pass, for mixed precision.
        progress: Name of a progress bar on the screen of the first process; None for no bar.
        last: The network's last layer, if what it is given shall be kept as features.
        mirrored: Show it the images mirrored from left to right.
    """
    indices = np.arange(len(split)) if indices is None else indices
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    size = eval_batch_size(split.images.shape[1])
    starts = range(rank * size, len(indices), world_size * size)
    bar = tqdm(starts, desc=progress, unit="batch", leave=False, disable=None if progress and rank == 0 else True)
    given: list[Tensor] = []
    handles = [last.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0]))] if last else []
    tables, features = [], []
    try:
        with torch.inference_mode():
            for start in bar:
                images = torch.from_numpy(split.images[indices[start : start + size]])
                images = images.flip(2) if mirrored else images  # (B, H, W, 3)
                with context():
                    logits = net(images.to(device))
                tables.append((start, logits.float().cpu().double().log_softmax(1).numpy()))
                features += [(start, given.pop().float().cpu().numpy())] if last else []
    finally:
        for handle in handles:
            handle.remove()
    return Predictions(indices, split.labels[indices], _gather(tables), _gather(features) if last else None)


def average(one: Predictions, other: Predictions) -> Predictions:
    """Return what the mean of two sets of logits says about the same images, without features.

    Averaging the logits of a image and of its mirror image is the flip TTA of arXiv 2404.00498, section 3.5.
    """
    mean = (one.log_probabilities + other.log_probabilities) / 2  # the logits', up to a constant in each row
    highest = mean.max(axis=1, keepdims=True)
    total = highest + np.log(np.exp(mean - highest).sum(axis=1, keepdims=True))
    return Predictions(one.indices, one.labels, mean - total)


def _gather(share: list[tuple[int, NDArray[Any]]]) -> NDArray[Any]:
    """Put the batches of all processes one after another, in the order of their starts."""
    shares = [share]
    if _distributed():
        shares = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(shares, share)
    return np.concatenate([rows for _, rows in sorted(itertools.chain(*shares), key=lambda one: one[0])])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def write_csv(path: Path, predictions: Predictions, classes: Sequence[str], files: Sequence[str] | None = None) -> None:
    """Write a row for each image: index, true and predicted class, margin, loss, and the probability of each class.

    Args:
        path: The file.
        predictions: What to write.
        classes: The class names; their columns are `p(NAME)`.
        files: The name of each image's file, by its index, for a last column `file`; None for no such column.
    """
    with atomic_write(path, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, *(f"p({name})" for name in classes), *(["file"] if files else [])))
        for row in range(len(predictions)):
            writer.writerow(
                (
                    predictions.indices[row],
                    safe_cell(classes[predictions.labels[row]]),
                    safe_cell(classes[predictions.predicted[row]]),
                    f"{predictions.margins[row]:.9g}",
                    f"{predictions.losses[row]:.9g}",
                    *(f"{probability:.9g}" for probability in predictions.probabilities[row]),
                    *([safe_cell(files[predictions.indices[row]])] if files else []),
                )
            )


def read_csv(path: Path) -> tuple[Predictions, tuple[str, ...]]:
    """Read what `write_csv` wrote, to nine digits, and the class names."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    end = -1 if header[-1] == "file" else len(header)
    classes = tuple(name.removeprefix("p(").removesuffix(")") for name in header[len(COLUMNS) : end])
    number = {name: position for position, name in enumerate(classes)}
    indices = np.array([int(row[0]) for row in rows], np.int64)
    labels = np.array([number[plain_cell(row[1])] for row in rows], np.int64)
    probabilities = np.array([row[len(COLUMNS) : end] for row in rows], np.float64).reshape(len(rows), len(classes))
    tiny = np.finfo(np.float64).tiny  # what was printed as 0 was above it
    return Predictions(indices, labels, np.log(np.maximum(probabilities, tiny))), classes
