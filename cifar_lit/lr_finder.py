"""Choosing the learning rate by a range test (arXiv 1506.01186)."""

from pathlib import Path

from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from cifar_lit import figures
from cifar_lit.errors import RunError
from cifar_lit.module import ImageClassifier
from cifar_lit.report import Report


def find_lr(trainer: Trainer, module: ImageClassifier, data: LightningDataModule, steps: int) -> None:
    """Set `module.lr` to where the loss falls most steeply; write the curve to the run's report.

    Args:
        trainer: Not yet fitted; the weights are put back afterwards.
        module: Its schedule then starts from, or rises to, the rate that was found.
        data: The pictures.
        steps: Training steps to spend, each at a higher rate, from 1e-8 to 1.

    Raises:
        RunError: The loss says nothing.
    """
    if module.norm_bias_lr_factor != 1:
        rank_zero_warn(
            "lr_find tries one rate for all weights; that of the norms' biases is then multiplied by "
            f"model.norm_bias_lr_factor={module.norm_bias_lr_factor:g} all the same"
        )
    epochs = trainer.fit_loop.max_epochs
    if epochs is not None and epochs >= 0:  # a training of few epochs must not cut the test short
        trainer.fit_loop.max_epochs = max(epochs, steps)
    module.finding_lr = True
    finder = Tuner(trainer).lr_find(module, datamodule=data, num_training=steps, attr_name="lr")
    module.finding_lr = False
    trainer.fit_loop.max_epochs = epochs
    lr = finder.suggestion() if finder else None
    if finder is None or lr is None:
        raise RunError(
            f"lr_find={steps}: too few steps with a finite loss to find a learning rate; give more steps, or set "
            "model.optimizer.init_args.lr yourself"
        )
    rank_zero_info(f"learning-rate finder: {lr:.3g}")
    if (log_dir := trainer.log_dir) and trainer.is_global_zero:
        report = Report(Path(log_dir) / "report", trainer)
        report.figure("lr_find", figures.lr_range(finder.results["lr"], finder.results["loss"], lr))
        report.table("lr_find", ("lr", "loss"), zip(finder.results["lr"], finder.results["loss"], strict=True))
