"""Choose the learning rate by a range test (arXiv 1506.01186)."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.metrics import NonFiniteGuard
from cifar_lit.training import compat
from cifar_lit.utils.errors import RunError

MIN_LR, MAX_LR = 1e-6, 1.0
MIN_STEPS = 9  # with fewer, noise looks like a falling loss


@dataclass(frozen=True)
class LRRange:
    """The result of a range test.

    Attributes:
        lrs: Learning rate of each step, `(N,)`, float64.
        losses: Training loss of each step, the mean over all processes, `(N,)`, float32.
        suggested: The learning rate at which the smoothed loss is lowest.
    """

    lrs: NDArray[np.float64]
    losses: NDArray[np.float32]
    suggested: float


class _Recorder(NonFiniteGuard):
    """Records the losses, which may diverge here; no callback, because Tuner replaces those of the trainer."""

    def check(self) -> None:
        """Accept any loss."""


def find_lr(trainer: Trainer, module: ImageClassifier, data: LightningDataModule, steps: int) -> LRRange:
    """Train with a learning rate that rises from 1e-6 to 1, then restore the weights.

    Args:
        trainer: Not yet fitted.
        module: The model.
        data: The images.
        steps: Number of training steps, `MIN_STEPS` or more.

    Raises:
        RunError: No learning rate can be suggested.
    """
    ignored = [f"model.{name}={value:g}" for name, value in module.lr_mults.items() if value != 1]
    ignored += [f"model.freeze_epochs={module.freeze_epochs}"] if module.freeze_epochs else []
    if ignored:
        rank_zero_warn(f"lr_find trains all parameters with the same learning rate, without {', '.join(ignored)}")
    max_epochs = trainer.fit_loop.max_epochs
    if max_epochs is not None and max_epochs >= 0:  # the test may need more epochs than the training
        trainer.fit_loop.max_epochs = max(max_epochs, steps)
    guard, module.guard = module.guard, (recorder := _Recorder())
    freeze_epochs, module.freeze_epochs = module.freeze_epochs, 0
    Tuner(trainer).lr_find(module, datamodule=data, min_lr=MIN_LR, max_lr=MAX_LR, num_training=steps, update_attr=False)
    module.guard, module.freeze_epochs = guard, freeze_epochs
    trainer.fit_loop.max_epochs = max_epochs
    compat.forget_validation(trainer)
    lrs = np.array([lr for _, lr, _ in recorder.seen])
    in_this_process = torch.stack([loss for _, _, loss in recorder.seen]).float()
    losses = trainer.strategy.reduce(in_this_process, reduce_op="mean").cpu().numpy()
    suggested = suggest(lrs, losses)
    if suggested is None:
        raise RunError(
            f"lr_find={steps}: the loss never falls, or there are too few steps; use more steps, or set "
            "model.optimizer.init_args.lr yourself"
        )
    rank_zero_info(f"learning rate range test: using {suggested:.3g}")
    return LRRange(lrs, losses, suggested)


def suggest(lrs: NDArray[np.float64], losses: NDArray[np.float32]) -> float | None:
    """Return the learning rate at which the smoothed loss is lowest (section 3.3 of the paper); None if it never falls.

    The loss is smoothed by fitting a line to each window of a sixth of the steps. Lightning's own suggestion, the
    steepest descent over the learning rate instead of its logarithm, often picks noise among the lowest ones.

    Args:
        lrs: Shape `(N,)`, growing by a constant factor.
        losses: Shape `(N,)`; used up to the first one that is not finite.
    """
    from scipy.signal import savgol_filter  # slow to import

    finite = np.isfinite(losses)
    losses = losses if finite.all() else losses[: finite.argmin()]
    window = max(MIN_STEPS, len(losses) // 6 | 1)
    if len(losses) < window:
        return None
    lowest = int(savgol_filter(losses, window, polyorder=1).argmin())
    return float(lrs[lowest]) if lowest > window // 2 else None


def read_lr_range(file: Path) -> LRRange | None:
    """Read `lr_find.csv`; None if there is none."""
    if not file.exists():
        return None
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    lrs = np.array([float(row["lr"]) for row in rows])
    losses = np.array([float(row["loss"]) for row in rows], dtype=np.float32)
    return LRRange(lrs, losses, next(float(row["lr"]) for row in rows if row["suggested"] == "True"))
