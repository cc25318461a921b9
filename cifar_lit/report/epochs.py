"""The metrics of each epoch."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EpochRow:
    """Metrics of one epoch.

    Attributes:
        epoch: Counted from 1.
        seconds: Duration of the epoch, validation included.
        lr: Learning rate of the first parameter group at the end of the epoch.
        train_loss: Mean loss over the augmented training images, in nats.
        train_accuracy: Fraction of them that was classified correctly, 0..1.
        val_loss: Mean cross entropy over the validation images, in nats; None in an epoch without validation.
        val_accuracy: Fraction of them that was classified correctly, 0..1; None likewise.
        images_per_second: Training images per second over all processes, validation excluded.
        data_time_fraction: Fraction of the training time spent waiting for the next batch, 0..1.
    """

    epoch: int
    seconds: float
    lr: float | None
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    images_per_second: float
    data_time_fraction: float


def read_epochs(file: Path) -> tuple[EpochRow, ...]:
    """Read `history.csv`; empty if there is none."""
    if not file.exists():
        return ()
    with open(file, newline="", encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = [
            {name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(lines)
        ]
    return tuple(EpochRow(**{**row, "epoch": int(row["epoch"])}) for row in rows)
