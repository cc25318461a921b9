"""A row of metrics for each epoch."""

import math
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.models.classifier import ImageClassifier

WORTH_A_HINT = 5  # seconds of waiting in an epoch


HINT = (
    "hint: the training waits for its images; --data.augment_on device prepares them on the device itself, "
    "--data.num_workers N in more processes (if there are cores for them)"
)


class History(Callback):
    """Keeps a row of figures for each epoch, prints it, and writes `log.txt`; survives resumption.

    Attributes:
        rows: For each epoch `epoch` (from 0), `seconds`, `lr`, what the module logged under `train/` and `val/`, and
            of the training without the validation `train/images_per_second`, over all processes, and
            `train/data_time_fraction`,
            the share of the time, 0..1, that went by until the loader gave the next batch.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._began = self._validation_began = 0.0
        self._validated = self._trained = self._waited = 0.0  # seconds of this epoch
        self._images = 0
        self._metrics: dict[str, float] = {}  # of this epoch, at the end of its last validation
        self._waited_before = 0.0
        self._earlier = [0.0, 0.0, 0.0, 0]  # what an interrupted epoch took before: all, validation, waiting; images
        self._hinted = False
        self._log: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder, which all processes must ask for together."""
        if trainer.log_dir and not getattr(trainer, "fast_dev_run", False):
            self._log = Path(trainer.log_dir) / "log.txt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is to come: the first epoch's line may be minutes away. Start the clocks of a resumed epoch."""
        seconds, validated, data_time_s, images = self._earlier
        self._start(trainer, seconds, validated, data_time_s, int(images))
        many = trainer.max_epochs or -1
        epochs = f"{many} epoch{'s' * (many != 1)}" if many > 0 else "any number of epochs"
        rank_zero_info(f"training: {epochs} of {trainer.num_training_batches} steps")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._start(trainer, 0.0, 0.0, 0.0, 0)
        self._metrics = {}

    def _start(self, trainer: Trainer, seconds: float, validated: float, data_time_s: float, images: int) -> None:
        self._began = time.monotonic() - seconds
        self._validated = validated
        self._trained, self._waited = seconds - validated, data_time_s
        self._waited_before = _waited(trainer) - data_time_s
        self._images = images

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self._images += len(batch[0])
        self._trained = time.monotonic() - self._began - self._validated
        self._waited = _waited(trainer) - self._waited_before

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the training."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        self._validated += time.monotonic() - self._validation_began
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        self._metrics = {**getattr(pl_module, "epoch_ended", {}), **metrics}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep and print the epoch."""
        seconds = max(self._trained, 1e-9)
        data_time_s = self._waited
        speed = {
            "train/images_per_second": self._images * trainer.world_size / seconds,
            "train/data_time_fraction": min(data_time_s / seconds, 1.0),
        }
        for logger in trainer.loggers:  # Lightning would do it after the epoch's checkpoint was written
            logger.log_metrics({**speed, "epoch": trainer.current_epoch}, trainer.global_step - 1)
        self._images = 0
        if isinstance(pl_module, ImageClassifier):
            pl_module.log_train_scores(trainer.global_step - 1)
        # Lightning keeps the validation's of earlier epochs among these, and none of them where a checkpoint is gone on
        # from that was written between an epoch's last validation and its end.
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("val/")}
        seconds = time.monotonic() - self._began
        row = {"epoch": trainer.current_epoch, "seconds": seconds, **self._metrics, **metrics, **speed}
        self.rows = [earlier for earlier in self.rows if earlier["epoch"] < row["epoch"]] + [row]
        if not trainer.is_global_zero:
            return
        line = f"epoch {trainer.current_epoch + 1}"
        if (trainer.max_epochs or -1) > 0:
            line += f"/{trainer.max_epochs}"
        for split in ("train", "val"):
            if f"{split}/loss" in row:
                line += f"   {split} loss {row[f'{split}/loss']:.3f} accuracy {row[f'{split}/accuracy']:.2%}"
        if "lr" in row:
            line += f"   lr {row['lr']:.3g}"
        line += f"   {row['seconds']:.0f} s"
        line += f"   {figures(speed['train/images_per_second'])} images/s"
        line += f", {speed['train/data_time_fraction']:.0%} waiting for data"
        if speed["train/data_time_fraction"] > 0.1 and data_time_s > WORTH_A_HINT and not self._hinted:
            self._hinted = True
            line += f"\n{HINT}"
        bar = trainer.progress_bar_callback
        bar.print(line) if isinstance(bar, TQDMProgressBar) else print(line, flush=True)
        if self._log:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint."""
        so_far = [time.monotonic() - self._began, self._validated, self._waited, self._images]
        so_far = so_far if self._images else [0.0, 0.0, 0.0, 0]
        return {"rows": self.rows, "so_far": so_far, "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back from it."""
        self.rows = state_dict["rows"]
        self._earlier = state_dict.get("so_far", self._earlier)
        self._metrics = state_dict.get("metrics", {})


def _waited(trainer: Trainer) -> float:
    """Return the seconds that the training loader took so far; 0 for one that is not ours."""
    data_time_s: float = getattr(trainer.train_dataloader, "waited", 0.0)
    return data_time_s


def figures(value: float) -> str:
    """Write a number with three figures and no exponent."""
    return f"{value:.3g}" if value < 100 else f"{round(value, 2 - int(math.log10(value))):,.0f}"
