"""Learning-rate schedules. To add one, list it in `SCHEDULES`; an option that it needs is a field of `Schedule`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.trainers import find_callbacks

PLANNED = "planned_steps"  # attribute of a scheduler: the number of steps for which it was built


def _onecycle(optimizer: Optimizer, total_steps: int, pct_start: float, **options: Any) -> LRScheduler:
    if pct_start * total_steps == 1:  # torch would divide by the 0 steps between the first one and the peak
        pct_start *= 1 + 1e-9
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, peaks, total_steps, pct_start=pct_start, cycle_momentum=False, **options)


class _Entry(NamedTuple):
    """How to build a schedule.

    Attributes:
        build: Takes the optimizer, the total number of steps if the interval is `step`, and the options by name.
        interval: How often it is stepped.
        options: The options of `Schedule` that it uses.
    """

    build: Callable[..., LRScheduler | None]
    interval: Literal["epoch", "step", "validation"]
    options: tuple[str, ...] = ()


SCHEDULES: dict[str, _Entry] = {
    "constant": _Entry(lambda optimizer: None, "epoch"),
    "step": _Entry(StepLR, "epoch", ("step_size", "gamma")),
    "onecycle": _Entry(_onecycle, "step", ("pct_start", "anneal_strategy", "div_factor", "final_div_factor")),
    "plateau": _Entry(ReduceLROnPlateau, "validation", ("factor", "patience", "min_lr")),
    "cosine": _Entry(CosineAnnealingLR, "step", ("eta_min",)),
}
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(SCHEDULES)]  # for the help and the errors of the command line


@dataclass
class Schedule:
    """A schedule and its options, named as in torch.optim.lr_scheduler.

    Args:
        name: `constant`; `step`: multiplied by gamma every step_size epochs; `onecycle`: rises to the optimizer's
            learning rate and falls again, updated every step (arXiv 1708.07120), but does not change the momentum;
            `plateau`: multiplied by factor when the validation loss stops falling; `cosine`: falls from the
            optimizer's learning rate to eta_min along half a cosine, updated every step (arXiv 1608.03983).
        step_size: step: epochs between two reductions, 1 or more.
        gamma: step: factor of each reduction, above 0.
        pct_start: onecycle: fraction of the steps in which the learning rate rises, 0 to 1.
        anneal_strategy: onecycle: shape of rise and fall, `cos` or `linear`.
        div_factor: onecycle: the first learning rate is the optimizer's divided by this.
        final_div_factor: onecycle: the last learning rate is the first divided by this.
        factor: plateau: factor of each reduction, above 0 and below 1.
        patience: plateau: validations without improvement before a reduction, 0 or more.
        min_lr: plateau: lower bound of the learning rate.
        eta_min: cosine: the last learning rate.
    """

    name: Name = "constant"
    step_size: int = 5
    gamma: float = 0.1
    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    factor: float = 0.1
    patience: int = 2
    min_lr: float = 0.0
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        """Raise UsageError for a value out of range; torch accepts some, or does not name the option."""
        ranges = {
            "step_size": ("1 or more", self.step_size >= 1),
            "gamma": ("above 0", self.gamma > 0),
            "pct_start": ("between 0 and 1", 0 < self.pct_start < 1),
            "div_factor": ("above 0", self.div_factor > 0),
            "final_div_factor": ("above 0", self.final_div_factor > 0),
            "factor": ("above 0 and below 1", 0 < self.factor < 1),
            "patience": ("0 or more", self.patience >= 0),
            "min_lr": ("0 or more", self.min_lr >= 0),
            "eta_min": ("0 or more", self.eta_min >= 0),
        }
        for option, (allowed, ok) in ranges.items():
            if not ok:
                raise UsageError(f"model.schedule.{option} must be {allowed}, got {getattr(self, option)}")

    def build(self, optimizer: Optimizer, total_steps: Callable[[], float]) -> LRScheduler | None:
        """Build the scheduler, None for a constant learning rate.

        Args:
            optimizer: Its learning rates are the peak (onecycle) or the start (others).
            total_steps: Returns the number of optimizer steps of the training.

        Raises:
            UsageError: The schedule needs the number of steps, and the training is not limited.
        """
        entry = SCHEDULES[self.name]
        options = {name: getattr(self, name) for name in entry.options}
        if entry.interval != "step":
            return entry.build(optimizer, **options)
        steps = total_steps()
        if not 1 <= steps < float("inf"):
            raise UsageError(
                f"model.schedule.name={self.name} needs a limited number of steps: set trainer.max_epochs or "
                "trainer.max_steps"
            )
        scheduler = entry.build(optimizer, int(steps), **options)
        vars(scheduler)[PLANNED] = int(steps)  # becomes a part of its state in the checkpoint
        return scheduler

    @property
    def interval(self) -> str:
        """How often the scheduler is stepped: every `epoch`, `step` or `validation`."""
        return SCHEDULES[self.name].interval

    def check(self, trainer: Trainer) -> None:
        """Warn about options without effect; raise UsageError if the schedule cannot work in this training."""
        steps = total_steps(trainer)
        for config in trainer.lr_scheduler_configs:  # as in the checkpoint
            planned = vars(config.scheduler).get(PLANNED, steps)
            if steps != planned:
                raise UsageError(
                    f"model.schedule.name={self.name} was planned for {planned} steps, and this run has "
                    f"{steps:.0f}: use the same trainer.max_epochs, trainer.accumulate_grad_batches, data and batch "
                    "size as before, or start a new run without --ckpt_path"
                )
        if self.interval == "validation" and not has_validation(trainer):
            raise UsageError(
                f"model.schedule.name={self.name} needs the validation loss, but there is no validation: set "
                "data.val_size above 0 or use another schedule"
            )
        changed = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        for option in sorted(changed - {"name", *SCHEDULES[self.name].options}):
            rank_zero_warn(f"model.schedule.{option} has no effect with model.schedule.name={self.name}")

    def check_complete(self, trainer: Trainer) -> None:
        """Warn if a training, by max_time or EarlyStopping, ends before a schedule that is planned for its length."""
        for config in trainer.lr_scheduler_configs:
            planned = vars(config.scheduler).get(PLANNED, 0)
            if trainer.global_step < planned:
                rank_zero_warn(
                    f"the training ends after {trainer.global_step} of the {planned} steps of model.schedule.name="
                    f"{self.name}, so that the learning rate is still {config.scheduler.get_last_lr()[0]:.3g}; to "
                    "complete the schedule use a smaller trainer.max_epochs"
                )


def total_steps(trainer: Trainer) -> float:
    """Return the number of optimizer steps of a training, infinite if it has no limit.

    Lightning's own number does not know of GradientAccumulationScheduler, which changes the batches per step.
    """
    steps: float = trainer.estimated_stepping_batches
    changes = find_callbacks(trainer, GradientAccumulationScheduler)
    if not changes or (epochs := trainer.max_epochs or -1) < 0:
        return steps
    batches_per_step = map(changes[-1].get_accumulate_grad_batches, range(epochs))
    steps = sum(math.ceil(trainer.num_training_batches / count) for count in batches_per_step)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def has_validation(trainer: Trainer) -> bool:
    """Return whether there are images to validate on; known from the start of the training on."""
    if not trainer.enable_validation:
        return False
    if trainer.check_val_every_n_epoch in (None, 1):
        return any(trainer.num_val_batches)
    data = getattr(trainer, "datamodule", None)  # Lightning counts the batches in the first epoch that validates
    return not isinstance(data, ImageDataModule) or data.val_size > 0
