"""The progress bar."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from cifar_lit.models.classifier import ImageClassifier


class ProgressBar(TQDMProgressBar):
    """Loss, accuracy and learning rate in the bar.

    It is drawn ten times a second at most, because that takes longer than a small step; its figures are read twice a
    second at most, because that waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, Any] = {}
        self._read_at = 0.0
        self._drawn_at = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Draw the bar."""
        if trainer.is_last_batch or time.monotonic() - self._drawn_at > 0.1:
            super().on_train_batch_end(trainer, *args, **kwargs)
            self._drawn_at = time.monotonic()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands at the end of the bar."""
        due = trainer.training and time.monotonic() - self._read_at > 0.5
        if due and isinstance(pl_module, ImageClassifier) and pl_module.train_scores.update_called:
            self._read_at = time.monotonic()
            self._shown = {name: f"{value:.3g}" for name, value in pl_module.running().items()}
        return self._shown
