"""Predictions of a network for the images of a split: one exact pass, distributed over all processes."""

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
from cifar_lit.models.metrics import rank_and_world_size
from cifar_lit.utils.files import atomic_write, plain_cell, safe_cell
from cifar_lit.utils.hardware import eval_batch_size

COLUMNS = ("index", "true", "predicted", "margin", "loss")  # of the CSV file, before those of the classes


@dataclass(frozen=True)
class Predictions:
    """Predictions for M images.

    Attributes:
        indices: Shape `(M,)`, int64, positions in the split, ascending.
        labels: Shape `(M,)`, int64, the true classes.
        log_probabilities: Shape `(M, C)`, float64, natural logarithms.
        features: Shape `(M, D)`, float32, inputs of the network's last layer; None if they were not kept.
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

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Shape `(M,)`, the probability of the prediction, 0..1."""
        highest: NDArray[np.float64] = self.probabilities.max(axis=1)
        return highest

    @cached_property
    def margins(self) -> NDArray[np.float64]:
        """Shape `(M,)`, the probability of the true class minus the highest other one, -1..1; below 0 for errors."""
        rows, others = np.arange(len(self)), self.probabilities.copy()
        others[rows, self.labels] = -1
        margins: NDArray[np.float64] = self.probabilities[rows, self.labels] - others.max(axis=1)
        return margins

    def take(self, rows: NDArray[Any]) -> "Predictions":
        """Return those of some rows, given by position or as a mask."""
        features = None if self.features is None else self.features[rows]
        return Predictions(self.indices[rows], self.labels[rows], self.log_probabilities[rows], features)

    def target_classes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the true and the predicted class of some rows, shape `(N, 2)`."""
        return np.stack([self.labels[rows], self.predicted[rows]], axis=1)

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Shape `(M,)`, the cross entropy of each image, in nats."""
        return 0 - self.log_probabilities[np.arange(len(self)), self.labels]  # no -0

    @property
    def loss(self) -> float:
        """Mean of the losses."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions, 0..1."""
        return float((self.predicted == self.labels).mean())

    @cached_property
    def errors(self) -> NDArray[np.int64]:
        """Rows of the misclassified images, the highest loss first."""
        rows = np.flatnonzero(self.predicted != self.labels)
        return rows[np.argsort(-self.losses[rows], kind="stable")]


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

    If torch.distributed is initialized, every process must call this; each takes every n-th batch, and all return
    the complete predictions. The batches, and so the results, are the same for any number of processes.

    Args:
        net: Maps uint8 `(B, H, W, 3)` to logits `(B, C)`; in evaluation mode, on `device`.
        split: The images, without augmentation.
        indices: Positions of images in the split, ascending; None for all.
        device: The device of the network.
        context: Context manager for each forward pass, for mixed precision.
        progress: Title of a progress bar in the first process; None for no bar.
        last: The network's last layer, to keep its inputs as features; None to keep none.
        mirrored: Whether to flip the images horizontally.
    """
    indices = np.arange(len(split)) if indices is None else indices
    rank, world_size = rank_and_world_size()
    size = eval_batch_size(split.images.shape[1])
    starts = range(rank * size, len(indices), world_size * size)
    bar = tqdm(starts, desc=progress, unit="batch", leave=False, disable=None if progress and rank == 0 else True)
    inputs: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _module, args: inputs.append(args[0])) if last else None
    tables, features = [], []
    try:
        with torch.inference_mode():
            for start in bar:
                images = torch.from_numpy(split.images[indices[start : start + size]])
                images = images.flip(2) if mirrored else images  # (B, H, W, 3)
                with context():
                    logits = net(images.to(device))
                tables.append((start, logits.float().cpu().double().log_softmax(1).numpy()))
                features += [(start, inputs.pop().float().cpu().numpy())] if last else []
    finally:
        if handle:
            handle.remove()
    return Predictions(indices, split.labels[indices], _gather(tables), _gather(features) if last else None)


def average(a: Predictions, b: Predictions) -> Predictions:
    """Return the predictions of the mean of two sets of logits for the same images, without features.

    The mean over an image and its mirror image is the flip TTA of arXiv 2404.00498, section 3.5.
    """
    mean = torch.from_numpy((a.log_probabilities + b.log_probabilities) / 2)  # logits, up to a constant in each row
    return Predictions(a.indices, a.labels, mean.log_softmax(1).numpy())


def _gather(batches: list[tuple[int, NDArray[Any]]]) -> NDArray[Any]:
    """Concatenate the (start, rows) of all processes in the order of their starts."""
    gathered = [batches] * rank_and_world_size()[1]
    if len(gathered) > 1:
        dist.all_gather_object(gathered, batches)
    return np.concatenate([rows for _, rows in sorted(itertools.chain(*gathered), key=lambda batch: batch[0])])


def write_csv(path: Path, predictions: Predictions, classes: Sequence[str], files: Sequence[str] | None = None) -> None:
    """Write a row for each image: index, true and predicted class, margin, loss, and the probability of each class.

    Args:
        path: The file.
        predictions: The predictions.
        classes: The class names; their columns are `p(NAME)`.
        files: File names of the split's images, for a last column `file`; None for no such column.
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
    """Read the predictions, to nine digits, and the class names from a file of `write_csv`."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    end = -1 if header[-1] == "file" else len(header)
    classes = tuple(name.removeprefix("p(").removesuffix(")") for name in header[len(COLUMNS) : end])
    number = {name: position for position, name in enumerate(classes)}
    indices = np.array([int(row[0]) for row in rows], np.int64)
    labels = np.array([number[plain_cell(row[1])] for row in rows], np.int64)
    probabilities = np.array([row[len(COLUMNS) : end] for row in rows], np.float64).reshape(len(rows), len(classes))
    tiny = np.finfo(np.float64).tiny  # in place of 0, whose logarithm is not finite
    return Predictions(indices, labels, np.log(np.maximum(probabilities, tiny))), classes
