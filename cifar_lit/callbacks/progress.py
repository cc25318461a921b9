"""The progress bar."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from cifar_lit.models.classifier import ImageClassifier


class ProgressBar(TQDMProgressBar):
    """A bar with loss, accuracy and learning rate.

    It is drawn ten times a second at most: that takes longer than a small step. Metrics are read twice a second at
    most: that waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._metrics: dict[str, Any] = {}
        self._read_s = self._drawn_s = 0.0

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Create the bar."""
        super().on_train_start(trainer, *args)
        self._describe(trainer)  # on_train_epoch_start is not called in a resumed epoch

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Start the bar of an epoch."""
        super().on_train_epoch_start(trainer, *args)
        self._describe(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Draw the bar."""
        if trainer.is_last_batch or time.monotonic() - self._drawn_s > 0.1:
            super().on_train_batch_end(trainer, *args, **kwargs)
            self._drawn_s = time.monotonic()

    def _describe(self, trainer: Trainer) -> None:
        """Set the bar's length and title; epochs are counted from 1."""
        epochs = trainer.max_epochs or -1
        self.train_progress_bar.total = self.total_train_batches
        self.train_progress_bar.set_description(
            f"epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs > 0 else "")
        )

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics at the end of the bar."""
        if isinstance(pl_module, ImageClassifier) and trainer.training and time.monotonic() - self._read_s > 0.5:
            self._read_s = time.monotonic()
            self._metrics = {name: f"{value:.3g}" for name, value in pl_module.running_metrics().items()}
        return self._metrics
