"""Learning-rate schedules: what to do with the optimizer's rate as training goes on."""

from dataclasses import MISSING, dataclass, fields
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from cifar_lit.utils.errors import UsageError

Name = Literal["constant", "step", "onecycle", "plateau", "cosine"]

OPTIONS: dict[str, set[str]] = {
    "constant": set(),
    "step": {"step_size", "gamma"},
    "onecycle": {"pct_start", "anneal_strategy", "div_factor", "final_div_factor"},
    "plateau": {"factor", "patience", "min_lr"},
    "cosine": {"eta_min"},
}


@dataclass
class Schedule:
    """A schedule and its options, named as in torch.optim.lr_scheduler.

    Args:
        name: `constant`; `step`: times gamma every step_size epochs; `onecycle`: up to the optimizer's rate and
            down again, once, per step (arXiv 1708.07120); `plateau`: times factor when the validation loss
            stops falling; `cosine`: from the optimizer's rate to eta_min along half a cosine, per step
            (arXiv 1608.03983).
        step_size: step: epochs between two reductions, 1 or more.
        gamma: step: factor of each reduction, above 0.
        pct_start: onecycle: share of the steps in which the rate rises, 0 to 1.
        anneal_strategy: onecycle: shape of rise and fall, `cos` or `linear`.
        div_factor: onecycle: the first rate is the optimizer's divided by this.
        final_div_factor: onecycle: the last rate is the first divided by this.
        factor: plateau: factor of each reduction, above 0 and below 1.
        patience: plateau: validations without improvement that are waited through, 0 or more.
        min_lr: plateau: the rate never falls below this.
        eta_min: cosine: the last rate.
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
        """Refuse values that torch would accept, or refuse without saying which option they came from."""
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

    def without_effect(self) -> list[str]:
        """Return the options that were changed but that this schedule does not look at."""
        changed = {f.name for f in fields(self) if f.default is not MISSING and getattr(self, f.name) != f.default}
        return sorted(changed - OPTIONS[self.name] - {"name"})

    @property
    def goes_by_steps(self) -> bool:
        """Whether `per_step` builds this schedule."""
        return self.name in ("onecycle", "cosine")

    def per_step(self, optimizer: Optimizer, total_steps: float) -> LRScheduler:
        """Build one of the two schedules that go by the optimizer's steps.

        Args:
            optimizer: Its rate is the peak (onecycle) or the start (cosine).
            total_steps: Optimizer steps of the whole training, over all epochs.
        """
        if not 1 <= total_steps < float("inf"):
            raise UsageError(
                f"model.schedule.name={self.name} needs an end: give trainer.max_epochs or trainer.max_steps"
            )
        if self.name == "cosine":
            return CosineAnnealingLR(optimizer, T_max=int(total_steps), eta_min=self.eta_min)
        rising = self.pct_start
        if rising * total_steps == 1:  # torch would divide by the 0 steps between the first one and the peak
            rising *= 1 + 1e-9
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=int(total_steps),
            pct_start=rising,
            anneal_strategy=self.anneal_strategy,
            cycle_momentum=False,  # the momentum stays what the recipe says
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )

    def per_epoch(self, optimizer: Optimizer) -> LRScheduler | None:
        """Build the schedule that goes by epochs."""
        return StepLR(optimizer, self.step_size, self.gamma) if self.name == "step" else None

    def per_validation(self, optimizer: Optimizer) -> ReduceLROnPlateau | None:
        """Build the schedule that goes by the validation loss."""
        if self.name != "plateau":
            return None
        return ReduceLROnPlateau(optimizer, mode="min", factor=self.factor, patience=self.patience, min_lr=self.min_lr)
