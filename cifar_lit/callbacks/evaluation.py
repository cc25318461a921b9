"""The final evaluation of a network, in all processes of a Trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import nn

from cifar_lit.analysis import duplicates, temperature
from cifar_lit.analysis.duplicates import Duplicates
from cifar_lit.analysis.evidence import Plan, collect
from cifar_lit.analysis.predictions import Predictions, average, predict
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import DataSplits, Split
from cifar_lit.data.sampling import stratified_split
from cifar_lit.models.resnet import ResNet18
from cifar_lit.models.temperature import Temperature
from cifar_lit.models.weights import fingerprint
from cifar_lit.report.epochs import EpochRow
from cifar_lit.report.provenance import Provenance
from cifar_lit.report.results import RunResults
from cifar_lit.training.lr_finder import LRRange
from cifar_lit.utils import environment


@dataclass(frozen=True)
class Needs:
    """What is evaluated beside test images and some training images.

    Attributes:
        flip_tta: Whether to predict the mirrored test images, too.
        val: Whether to predict the validation images, if there are any, and fit the temperature to them.
        duplicates: Whether to search near-duplicates of the training images.
        num_neighbor_images: Number of training images whose features are kept to look up nearest neighbors.
    """

    flip_tta: bool = False
    val: bool = False
    duplicates: bool = False
    num_neighbor_images: int = 0

    def union(self, other: "Needs") -> "Needs":
        """Return what either of two parts of the report needs."""
        return Needs(**{one.name: max(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)})


NO_NEEDS = Needs()


def evaluate_network(
    trainer: Trainer,
    data: ImageDataModule,
    net: ResNet18,
    *,
    name: str,
    weights: str,
    checkpoint: Path | None,
    epochs: Sequence[EpochRow] = (),
    provenance: Provenance | None = None,
    needs: Needs = NO_NEEDS,
    lr_range: LRRange | None = None,
    evidence: Plan | None = None,
    stored: Temperature | None = None,
) -> RunResults:
    """Predict the test images and, unless `data.test_only`, some training images; every process must call this.

    Args:
        trainer: For its device, precision, processes and limits.
        data: The images.
        net: Moved to the device, and set to evaluation mode and float32.
        name: As in `RunResults`, like the following arguments.
        weights: Which weights `net` has.
        checkpoint: Their file, if they were saved.
        epochs: Metrics of each epoch.
        provenance: Default: this process.
        needs: What else to evaluate.
        lr_range: The learning rate range test.
        evidence: How much evidence for the CAMs to compute when it is first used; default: none.
        stored: The temperature if it is not fitted here.
    """
    device = trainer.strategy.root_device
    net = net.to(device).float().eval().requires_grad_(False)

    def run(
        split: Split, indices: NDArray[np.int64], progress: str, last: nn.Module | None = None, mirrored: bool = False
    ) -> Predictions:
        context = trainer.precision_plugin.forward_context
        return predict(
            net, split, indices, device=device, context=context, progress=progress, last=last, mirrored=mirrored
        )

    splits = data.splits
    selected = _limited(trainer, data, splits.test, data.test_dataset.indices, trainer.limit_test_batches)
    test = run(splits.test, selected, "final pass, test", last=net.backbone.fc)
    mirrored = run(splits.test, selected, "final pass, test, mirrored", mirrored=True) if needs.flip_tta else None
    train = known = None
    if not data.test_only:
        trained = data.train_dataset.indices
        limits = trainer, data, splits.train, trained, trainer.limit_train_batches
        selected = _limited(*limits, data.train_eval_size)
        last = net.backbone.fc if needs.num_neighbor_images else None
        train = run(splits.train, selected, "final pass, train", last=last)
        if needs.num_neighbor_images:
            searched = _limited(*limits, needs.num_neighbor_images)
            same = np.array_equal(searched, selected)
            known = train if same else run(splits.train, searched, "final pass, features", last=last)
    val = None
    if needs.val and not data.test_only and data.val_size and trainer.limit_val_batches:
        validated = np.sort(data.val_dataset.indices)
        selected = _limited(trainer, data, splits.train, validated, trainer.limit_val_batches)
        val = run(splits.train, selected, "final pass, validation")
    searches = needs.duplicates and not data.test_only
    return RunResults(
        name=name,
        classes=splits.classes,
        weights=weights,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        fingerprints={
            **({} if data.test_only else {"train": splits.train.fingerprint}),
            "test": splits.test.fingerprint,
        },
        epochs=tuple(epochs),
        test=test,
        train=train,
        test_flip_tta=average(test, mirrored) if mirrored else None,
        provenance=provenance or Provenance("", (environment.describe(),)),
        data=data,
        load_network=lambda: net,
        checkpoint=checkpoint,
        lr_range=lr_range,
        load_evidence=lambda results: replace(
            collect(results.network, results.images, results.test, evidence or Plan()),
            weights=fingerprint(results.network, results.classes, data.image_size),
        ),
        val=val,
        temperature=temperature.fit(val) if val else stored,
        load_duplicates=partial(_find_duplicates, splits, test.indices) if searches else lambda: None,
        known=known,
    )


def _find_duplicates(splits: DataSplits, indices: NDArray[np.int64]) -> Duplicates:
    return duplicates.find(splits.test.images, indices, splits.train.images)


def _limited(
    trainer: Trainer,
    data: ImageDataModule,
    split: Split,
    indices: NDArray[np.int64],
    limit: float | int,
    max_size: int | None = None,
) -> NDArray[np.int64]:
    """Return the indices under the trainer's limit of batches, a fraction of each class."""
    per_batch = data.batch_size * trainer.world_size
    count = int(len(indices) * limit) if isinstance(limit, float) else min(len(indices), limit * per_batch)
    count = max(1, min(count, max_size or count))
    return indices[stratified_split(split.labels[indices], count, data.seed)[1]]
