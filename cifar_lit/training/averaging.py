"""Averages of the weights that start late."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging

from cifar_lit.training import compat
from cifar_lit.utils.trainers import find_callbacks


class AverageStart(Callback):
    """Lets the average of a WeightAveraging callback be the current weights until its first update.

    Without it, validation, checkpoints and the end of a training that is shorter than `update_starting_at_step` would
    use the initial weights (Lightning's issue 21724). Comes before the WeightAveraging callbacks.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update before the callback validates with its average."""
        self._update(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Update before the callback saves its average."""
        self._update(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update before the callback replaces the weights by its average."""
        self._update(trainer, pl_module)

    def _update(self, trainer: Trainer, module: LightningModule) -> None:
        for callback in find_callbacks(trainer, WeightAveraging):
            compat.start_average(callback, module)
