"""How checkpoints are written, and when `last.ckpt` is saved."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from cifar_lit.training import torchrun
from cifar_lit.training.run_folder import folder_of
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write
from cifar_lit.utils.signals import Interrupted, stop
from cifar_lit.utils.trainers import is_fast_dev_run


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically.

    Lightning's own writes to the temporary folder and moves the file, which between file systems is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; if that fails, the previous file is kept."""
        content = io.BytesIO()  # on a full disk, torch would raise an internal error instead of an OSError
        torch.save(checkpoint, content)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_write(path, "wb") as file:
            file.write(content.getbuffer())


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the weights with the highest validation accuracy."""

    def __init__(self) -> None:
        super().__init__(filename="best", monitor="val/accuracy", mode="max", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """Key of its state in checkpoints: not that of a user's ModelCheckpoint with the same metric."""
        return "best"


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` at the end of each epoch and when a signal stops the training; resuming from it is exact.

    Args:
        every_n_train_steps: Also save every N steps; 0 or more, 0 turns it off.

    Raises:
        Interrupted: After saving, if a signal was received.
    """

    def __init__(self, every_n_train_steps: int = 0) -> None:
        if every_n_train_steps < 0:
            raise UsageError(f"checkpoint.every_n_train_steps must be 0 or more, got {every_n_train_steps}")
        self.every_n_train_steps = every_n_train_steps
        self.file: Path | None = None
        self._step = 0
        self._due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder."""
        self.file = folder_of(trainer) / "checkpoints" / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on, stop after a step, and let torchrun's next attempt resume this run."""
        self._step = trainer.global_step
        if self.file and trainer.is_global_zero and not is_fast_dev_run(trainer):
            torchrun.record_run(self.file.parents[1])
        stop.after_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if due, or if a signal was received, at the first step from which Lightning resumes exactly."""
        stepped = trainer.global_step != self._step  # False while gradients are accumulated
        self._step = trainer.global_step
        if stepped and self.every_n_train_steps and trainer.global_step % self.every_n_train_steps == 0:
            self._due = True
        signum = received(trainer)
        if (signum or self._due) and stepped and not _validates_or_ends(trainer, batch_idx):
            self._save(trainer, signum)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._save(trainer, received(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop for a signal since the last checkpoint; from now on stop anywhere, also in the report."""
        signum = received(trainer)
        stop.after_step = False
        self._stop(signum or stop.signum)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop anywhere: no step follows."""
        stop.after_step = False

    def _save(self, trainer: Trainer, signum: int | None) -> None:
        if self.file is not None and not is_fast_dev_run(trainer):
            trainer.save_checkpoint(self.file, weights_only=False)
        self._due = False
        self._stop(signum)

    def _stop(self, signum: int | None) -> None:
        if signum:
            raise Interrupted(signum)


def received(trainer: Trainer) -> int | None:
    """Return the signal that any process has received, the same in all of them; every process must call this."""
    if trainer.world_size == 1:
        return stop.signum
    mine = torch.tensor(stop.signum or 0, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(mine, torch.distributed.ReduceOp.MAX)  # strategy.reduce would add a barrier
    signum = int(mine) or None
    stop.signum = stop.signum or signum  # a later one is ignored here, too
    return signum


def _validates_or_ends(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether a validation or the end of the epoch follows this step: a resumed training would skip it."""
    if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
        return True
    every = trainer.val_check_batch
    if not trainer.enable_validation or not every or every == float("inf"):
        return False
    if trainer.check_val_every_n_epoch is None:
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0 and (batch_idx + 1) % every == 0
