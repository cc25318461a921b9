"""Choosing the learning rate by a range test (arXiv 1506.01186)."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.report import figures
from cifar_lit.report.writer import Report
from cifar_lit.utils.errors import RunError

LOWEST, HIGHEST = 1e-6, 1.0  # rates that are tried


def find_lr(trainer: Trainer, module: ImageClassifier, data: LightningDataModule, steps: int) -> None:
    """Set `module.lr` to the rate up to which the loss falls; write the curve to the run's report.

    Args:
        trainer: Not yet fitted; the weights are put back afterwards.
        module: Its schedule then starts from, or rises to, the rate that was found.
        data: The images.
        steps: Training steps to spend, each at a higher rate, from 1e-6 to 1.

    Raises:
        RunError: The loss says nothing.
    """
    if module.norm_bias_lr_mult != 1:
        rank_zero_warn(
            "lr_find tries one rate for all weights; that of the norms' biases is then multiplied by "
            f"model.norm_bias_lr_mult={module.norm_bias_lr_mult:g} all the same"
        )
    epochs = trainer.fit_loop.max_epochs
    if epochs is not None and epochs >= 0:  # a training of few epochs must not cut the test short
        trainer.fit_loop.max_epochs = max(epochs, steps)
    module.tried = []
    Tuner(trainer).lr_find(
        module, datamodule=data, min_lr=LOWEST, max_lr=HIGHEST, num_training=steps, update_attr=False
    )
    rates = np.array([lr for lr, _ in module.tried])
    here = torch.stack([loss for _, loss in module.tried]).float()
    losses = trainer.strategy.reduce(here, reduce_op="mean").cpu().numpy()  # over all processes
    module.tried = None
    trainer.fit_loop.max_epochs = epochs
    lr = where_lowest(rates, losses)
    if lr is None:
        raise RunError(
            f"lr_find={steps}: too few steps to find a learning rate, or the loss falls at none; give more steps, or "
            "set model.optimizer.init_args.lr yourself"
        )
    module.lr = lr
    rank_zero_info(f"learning-rate finder: {lr:.3g}")
    if (log_dir := trainer.log_dir) and trainer.is_global_zero:
        report = Report(Path(log_dir) / "report", trainer)
        report.figure("lr_find", figures.lr_range(rates, losses, lr))
        report.table("lr_find", ("lr", "loss"), zip(rates.tolist(), losses.tolist(), strict=True))


def where_lowest(rates: NDArray[np.float64], losses: NDArray[np.float32]) -> float | None:
    """Return the rate up to which the loss falls (section 3.3 of the paper, by accuracy there); None if it never does.

    It goes by the straight lines through each sixth of the steps. Lightning's suggestion, the steepest fall over the
    rate itself and not over its logarithm, takes the noise among the lowest rates for that.

    Args:
        rates: Shape `(N,)`, each the same multiple of the one before.
        losses: Shape `(N,)`, the loss of each step; what follows one that is not finite is left out.
    """
    from scipy.signal import savgol_filter  # takes a while to import

    finite = np.isfinite(losses)
    losses = losses if finite.all() else losses[: finite.argmin()]
    window = max(9, len(losses) // 6 | 1)
    if len(losses) < window:
        return None
    lowest = int(savgol_filter(losses, window, polyorder=1).argmin())
    return float(rates[lowest]) if lowest > window // 2 else None
