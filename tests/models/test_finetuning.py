"""Training the last layer first, and the others at a learning rate of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch.optim import SGD

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.schedules import Schedule
from tests.conftest import QUIET_TRAINER

State = dict[str, torch.Tensor]


class EachEpoch(Callback):
    """Keeps the weights after each epoch, and saves checkpoints at given steps."""

    def __init__(self, folder: Path | None = None, steps: tuple[int, ...] = ()) -> None:
        self.folder, self.steps, self.states = folder, steps, list[State]()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(f"{self.folder}/{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def train(*callbacks: Callback, ckpt_path: str | None = None, **options: Any) -> ImageClassifier:
    """Train for three epochs of two steps, the first without the backbone."""
    torch.manual_seed(0)
    data = ImageDataModule(
        "digits", image_size=8, val_size=1373, batch_size=32, num_workers=0, crop_padding=0, cutout_size=0, seed=0
    )
    module = ImageClassifier(
        10,
        data.mean,
        data.std,
        stem="imagenet",
        optimizer=lambda groups: SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
        schedule=Schedule("onecycle"),
        **{"freeze_epochs": 1, "memory_format": "contiguous", **options},
    )
    trainer = Trainer(
        max_epochs=3,
        limit_train_batches=2,
        limit_val_batches=1,
        callbacks=list(callbacks),
        **QUIET_TRAINER,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


def changed(before: State, after: State) -> set[str]:
    return {name.removeprefix("net.backbone.") for name in before if not torch.equal(before[name], after[name])}


HEAD = {"fc.weight", "fc.bias"}


@pytest.mark.slow
def test_backbone_is_frozen_first_and_resumed_trainings_are_identical(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # steps 1 and 2 are frozen: in the middle of that epoch, at its end, and after it
    epochs = EachEpoch(tmp_path, (1, 2, 3))
    module = train(epochs)
    first, second, _ = epochs.states
    backbone = {name.removeprefix("net.backbone.") for name in first if "backbone" in name} - HEAD
    torch.manual_seed(0)
    initial = ImageClassifier(10, (0.0,) * 3, (1.0,) * 3, stem="imagenet", memory_format="contiguous").state_dict()
    assert changed(initial, first) - {"net.normalize.mean", "net.normalize.std"} == HEAD
    assert changed(first, second) == HEAD | backbone
    for step in (1, 2, 3):
        resumed = train(ckpt_path=str(tmp_path / f"{step}.ckpt"))
        assert not changed(module.state_dict(), resumed.state_dict())
        assert all(part.training for part in resumed.net.modules())


def test_average_of_frozen_weights_is_unchanged() -> None:
    epochs, average = EachEpoch(), EMAWeightAveraging(decay=0.5)
    module = train(epochs, average)
    assert changed(module.state_dict(), epochs.states[-1]) >= HEAD
