"""When and how checkpoints are written."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from cifar_lit.training.signals import StopSignals
from cifar_lit.utils.errors import Interrupted, UsageError
from cifar_lit.utils.files import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there; Lightning's own passes through the temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; if that fails the one that was there before stays."""
        content = io.BytesIO()  # torch reports a full disk as an internal error of its own
        torch.save(checkpoint, content)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_write(path, "wb") as file:
            file.write(content.getbuffer())


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, from which a training goes on exactly: at each epoch's end, and when it is asked to stop.

    Args:
        every_n_train_steps: Save every so many steps, too; 0 or more, 0 turns it off.

    Raises:
        Interrupted: After saving, when a signal asked to stop.
    """

    def __init__(self, every_n_train_steps: int = 0) -> None:
        if every_n_train_steps < 0:
            raise UsageError(f"checkpoint.every_n_train_steps must be 0 or more, got {every_n_train_steps}")
        self.every_n_train_steps = every_n_train_steps
        self.file: Path | None = None
        self.signals = StopSignals()
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder, which all processes must ask for together, and listen to SLURM, too."""
        self.file = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        self.signals.leave()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch for signals."""
        self._step = trainer.global_step
        self.signals.watch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due, at the first step from which Lightning can go on as if nothing had been."""
        stepped = trainer.global_step != self._step  # else gradients are being accumulated
        self._step = trainer.global_step
        due = self.every_n_train_steps and trainer.global_step % self.every_n_train_steps == 0
        stop = self.signals.agreed(trainer)
        if (stop or due) and stepped and not _something_follows(trainer, batch_idx):
            self._save(trainer, stop)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._save(trainer, self.signals.agreed(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop watching: the report can be interrupted anywhere."""
        self.signals.leave()
        if stop := self.signals.agreed(trainer):  # since the last checkpoint
            raise Interrupted(stop, self.signals.requeue(trainer, stop))

    def _save(self, trainer: Trainer, stop: int | None) -> None:
        if self.file is not None and not getattr(trainer, "fast_dev_run", False):
            for logger in trainer.loggers:
                logger.save()  # a resumed training does not log again what came before its checkpoint
            trainer.save_checkpoint(self.file, weights_only=False)
        if stop:
            raise Interrupted(stop, self.signals.requeue(trainer, stop))


def _something_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Tell whether a validation or the epoch's end comes before the next batch; a resumed training would skip it."""
    if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
        return True
    every = trainer.val_check_batch
    if not trainer.enable_validation or not every or every == float("inf"):
        return False
    if trainer.check_val_every_n_epoch is None:
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0 and (batch_idx + 1) % every == 0
