"""What stands on the screen while training: the progress bar, a line for each epoch, and no noise."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from cifar_lit.module import ImageClassifier


class ProgressBar(TQDMProgressBar):
    """Loss, accuracy and learning rate in the bar; reading them waits for the device, so twice a second at most."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, Any] = {}
        self._read_at = 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands at the end of the bar."""
        if trainer.training and isinstance(pl_module, ImageClassifier) and time.monotonic() - self._read_at > 0.5:
            self._read_at = time.monotonic()
            self._shown = {name: f"{value:.3g}" for name, value in pl_module.running().items()}
        return self._shown


class History(Callback):
    """Keeps a row of figures for each epoch, prints it, and writes `log.txt`; survives resumption.

    Attributes:
        rows: For each epoch `epoch` (from 0), `seconds`, `lr` and what the module logged under `train/` and `val/`.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._began = 0.0
        self._log: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder, which all processes must ask for together."""
        if trainer.log_dir and not getattr(trainer, "fast_dev_run", False):
            self._log = Path(trainer.log_dir) / "log.txt"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep and print the epoch."""
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch, "seconds": time.monotonic() - self._began, **metrics}
        self.rows = [earlier for earlier in self.rows if earlier["epoch"] < row["epoch"]] + [row]
        if not trainer.is_global_zero:
            return
        line = f"epoch {trainer.current_epoch + 1}"
        if (trainer.max_epochs or -1) > 0:
            line += f"/{trainer.max_epochs}"
        for split in ("train", "val"):
            if f"{split}/loss" in row:
                line += f"   {split} loss {row[f'{split}/loss']:.3f} accuracy {row[f'{split}/accuracy']:.2%}"
        line += f"   lr {row['lr']:.3g}   {row['seconds']:.0f} s"
        bar = trainer.progress_bar_callback
        bar.print(line) if isinstance(bar, TQDMProgressBar) else print(line, flush=True)
        if self._log:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back from it."""
        self.rows = state_dict["rows"]


def silence_noise() -> None:
    """Hide what the libraries say to everybody and nobody can act on; everything else stays."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
    # Validation pictures only have to be sliced out of an array; workers would cost more than they save.
    warnings.filterwarnings("ignore", message="The '(val|test)_dataloader' does not have many workers")
    # Our own files are in the folder first, and our CSV logger deletes nothing.
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
