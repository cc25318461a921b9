"""Averages of the weights that are never updated."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel

from cifar_lit.training.averaging import AverageStart
from tests.conftest import QUIET_TRAINER


class Weights(Callback):
    """Keeps the weights after each step, and those that are validated."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.trained = pl_module.layer.weight.detach().clone()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = pl_module.layer.weight.detach().clone()


@pytest.mark.parametrize("start", [[AverageStart()], []], ids=["fixed", "as Lightning does it"])
def test_average_that_was_never_updated_is_the_current_weights(start: list[Callback], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, weights = BoringModel(), Weights()
    late = EMAWeightAveraging(update_starting_at_step=1000)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=4,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[*start, late, weights, ModelCheckpoint(tmp_path, filename="saved")],
        **QUIET_TRAINER,
    )
    trainer.fit(module)
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)["state_dict"]["layer.weight"]
    for found in (weights.validated, saved, module.layer.weight):
        assert torch.equal(found, weights.trained) == bool(start)  # without AverageStart: the initial weights
