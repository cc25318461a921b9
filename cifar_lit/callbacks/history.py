"""Metrics of each epoch: rows for the report, lines for the screen and for log.txt."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.flops import training_flops
from cifar_lit.models.metrics import log_to_loggers
from cifar_lit.report.epochs import EpochRow
from cifar_lit.training import compat
from cifar_lit.training.run_folder import folder_of
from cifar_lit.utils.text import counted
from cifar_lit.utils.trainers import is_fast_dev_run

MIN_HINT_S = 5.0
HINT = (
    "hint: the training is waiting for data; --data.augment_on device augments on the device itself, "
    "--data.num_workers N uses more worker processes (if there are cores for them)"
)


@dataclass
class _Totals:
    """Totals of the current epoch, which are saved in checkpoints."""

    seconds: float = 0.0
    val_s: float = 0.0  # part of them in validation
    train_s: float = 0.0  # until the last training batch, without validation
    data_time_s: float = 0.0  # part of them spent waiting for the next batch
    images: int = 0  # of this process
    lr: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None


class EpochHistory(Callback):
    """Keeps a row for each epoch, prints it, and appends it to `log.txt`. Needs ImageClassifier.

    Attributes:
        rows: A row for each epoch, kept when a training is resumed.
    """

    def __init__(self) -> None:
        self.rows: list[EpochRow] = []
        self._totals = _Totals()
        self._start_s = self._val_start_s = self._data_start_s = 0.0
        self._hinted = False
        self._log: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder."""
        folder = folder_of(trainer)
        self._log = None if is_fast_dev_run(trainer) else folder / "log.txt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print length and cost of the training and the size of the network; continue the clocks of a resumed epoch."""
        self._start_clocks(trainer)
        epochs = trainer.max_epochs or -1
        text = counted(epochs, "epoch") if epochs > 0 else "any number of epochs"
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        text += f" of {counted(steps, 'step')}, {parameters:,} parameters"
        if trainer.is_global_zero and epochs > 0:
            text += f", {_training_flops(trainer, pl_module, epochs):.1e} floating-point operations"
        rank_zero_info(f"training: {text}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the totals; not called in a resumed epoch."""
        self._totals = _Totals()
        self._start_clocks(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Read the learning rate, which changes before the batch ends."""
        self._totals.lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the totals."""
        totals = self._totals
        totals.images += len(batch[0])
        totals.train_s = time.monotonic() - self._start_s - totals.val_s
        totals.data_time_s = _data_time_s(trainer) - self._data_start_s

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the validation."""
        self._val_start_s = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the metrics here: Lightning keeps those of earlier epochs, and forgets them when it resumes."""
        self._totals.val_s += time.monotonic() - self._val_start_s
        self._totals.val_loss = float(trainer.callback_metrics["val/loss"])
        self._totals.val_accuracy = float(trainer.callback_metrics["val/accuracy"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the speed; keep and print the row."""
        assert isinstance(pl_module, ImageClassifier)
        totals, train = self._totals, pl_module.train_metrics.compute()
        train_s = max(totals.train_s, 1e-9)
        row = EpochRow(
            epoch=trainer.current_epoch + 1,
            seconds=time.monotonic() - self._start_s,
            lr=totals.lr,
            train_loss=float(train["loss"]),
            train_accuracy=float(train["accuracy"]),
            val_loss=totals.val_loss,
            val_accuracy=totals.val_accuracy,
            images_per_second=totals.images * trainer.world_size / train_s,
            data_time_fraction=min(totals.data_time_s / train_s, 1.0),
        )
        self.rows = [earlier for earlier in self.rows if earlier.epoch < row.epoch] + [row]  # a resumed one is complete
        speed = {f"train/{name}": getattr(row, name) for name in ("images_per_second", "data_time_fraction")}
        log_to_loggers(pl_module, speed, trainer.global_step - 1)
        if trainer.is_global_zero:
            self._print(trainer, _line(row, trainer.max_epochs or -1))
            if row.data_time_fraction > 0.1 and totals.data_time_s > MIN_HINT_S and not self._hinted:
                self._hinted = True
                self._print(trainer, HINT)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why EarlyStopping ended the training, also when only its report is created again."""
        for stopping in trainer.early_stopping_callbacks:
            if reason := stopping.stopping_reason_message:
                reason = reason.removesuffix(" Signaling Trainer to stop.")
                rank_zero_info(f"EarlyStopping ended the training: {reason}")

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the totals of the current epoch, for the checkpoint."""
        self._totals.seconds = time.monotonic() - self._start_s
        return {"rows": [asdict(row) for row in self.rows], "totals": asdict(self._totals)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        self.rows = [EpochRow(**row) for row in state_dict["rows"]]
        self._totals = _Totals(**state_dict["totals"])

    def _start_clocks(self, trainer: Trainer) -> None:
        self._start_s = time.monotonic() - self._totals.seconds
        self._data_start_s = _data_time_s(trainer) - self._totals.data_time_s

    def _print(self, trainer: Trainer, line: str) -> None:
        bar = trainer.progress_bar_callback
        bar.print(line) if isinstance(bar, TQDMProgressBar) else print(line, flush=True)
        if self._log:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def _training_flops(trainer: Trainer, module: LightningModule, epochs: int) -> int:
    data = getattr(trainer, "datamodule", None)
    assert isinstance(module, ImageClassifier) and isinstance(data, ImageDataModule)
    batches = int(trainer.num_training_batches)
    images = min(batches * data.batch_size * trainer.world_size, len(data.train_dataset))
    net = compat.copy_without_hooks(module.net).eval()
    return training_flops(net, [data.augment.size_at(epoch) for epoch in range(epochs)], images)


def _data_time_s(trainer: Trainer) -> float:
    """Return the time that the training loader took so far, 0 for a loader of another library."""
    return float(getattr(trainer.train_dataloader, "data_time_s", 0.0))


def _line(row: EpochRow, max_epochs: int) -> str:
    parts = [f"epoch {row.epoch}" + (f"/{max_epochs}" if max_epochs > 0 else "")]
    parts += [f"train loss {row.train_loss:.3f} accuracy {row.train_accuracy:.2%}"]
    if row.val_loss is not None:
        parts += [f"val loss {row.val_loss:.3f} accuracy {row.val_accuracy:.2%}"]
    speed = f"{three_digits(row.images_per_second)} images/s, data time {100 * row.data_time_fraction:.0f}%"
    return "   ".join([*parts, f"lr {row.lr:.3g}", f"{row.seconds:.0f} s", speed])


def three_digits(value: float) -> str:
    """Format a number above 0 with three significant digits and no exponent."""
    return f"{value:.3g}" if value < 100 else f"{round(value, 2 - int(math.log10(value))):,.0f}"
