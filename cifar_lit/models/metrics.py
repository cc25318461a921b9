"""Loss and accuracy of an epoch, and a guard against losses that are not finite."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric

from cifar_lit.models.weights import all_finite
from cifar_lit.utils.errors import RunError

DIVERGED = (
    "training diverged. Checkpoints from before it are kept. Lower the optimizer's lr (model.optimizer.init_args.lr), "
    "or set trainer.gradient_clip_val"
)


class EpochMetrics(Metric):
    """Mean loss and accuracy of an epoch; sums stay on the device and are exact across processes.

    A single metric with three sums: updating two metrics of torchmetrics takes a large part of a small step.
    """

    loss: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, zero in (("loss", 0.0), ("correct", 0), ("count", 0)):
            self.add_state(name, torch.tensor(zero), dist_reduce_fx="sum")

    def update(self, loss: Tensor | float, correct: Tensor | int, count: int) -> None:
        """Add the sum of the losses of some images, how many of them are classified correctly, and their number."""
        self.loss = self.loss.float() + loss  # precision bf16-true makes it bfloat16, too coarse for a sum
        # Not in place: a reset under torch.inference_mode, as in Trainer.validate, leaves tensors that refuse it.
        self.correct = self.correct + correct
        self.count = self.count + count

    def compute(self) -> dict[str, Tensor]:
        """Return mean loss and accuracy (0..1) over all processes."""
        return {"loss": self.loss / self.count, "accuracy": self.correct / self.count}

    def local(self) -> dict[str, float]:
        """Return mean loss and accuracy (0..1) of this process, without communication."""
        return {"loss": float(self.loss / self.count), "accuracy": float(self.correct / self.count)}

    def gather(self) -> list[dict[str, float]]:
        """Return the sums of each process; every process must call this."""
        sums = {name: getattr(self, name).item() for name in self.metric_state}
        gathered = [sums] * rank_and_world_size()[1]
        if len(gathered) > 1:
            dist.all_gather_object(gathered, sums)
        return gathered

    def restore(self, gathered: list[dict[str, float]]) -> None:
        """Set the sums to those from `gather`; if the number of processes differs, the first process takes them all."""
        rank, world_size = rank_and_world_size()
        self.reset()
        for process, sums in enumerate(gathered):
            if rank == (process if len(gathered) == world_size else 0):
                self.update(sums["loss"], int(sums["correct"]), int(sums["count"]))


def log_epoch(module: LightningModule, stage: str, metrics: EpochMetrics) -> dict[str, Tensor]:
    """Log the metrics of an epoch as `stage/loss` and `stage/accuracy`, and return them.

    Raises:
        RunError: The loss is not finite while the module is trained.
    """
    named = {f"{stage}/{name}": value for name, value in metrics.compute().items()}
    fitting = module.trainer.state.fn == "fit"  # and not Trainer.test or Trainer.validate, which return what they log
    # The values are the same in every process already; sync_dist only keeps Lightning from warning.
    module.log_dict(named, logger=not fitting, on_step=False, on_epoch=True, sync_dist=True)
    if fitting and not module.trainer.sanity_checking:
        log_to_loggers(module, named, module.global_step - 1)
        if not named[f"{stage}/loss"].isfinite():  # before a checkpoint replaces a good one
            raise RunError(f"{stage}/loss of epoch {module.current_epoch + 1} is not finite: {DIVERGED}")
    return named


def log_to_loggers(module: LightningModule, values: Mapping[str, float | Tensor], step: int) -> None:
    """Log values at once, with the epoch counted from 1; Lightning would do it after the epoch's checkpoint."""
    for logger in module.loggers:
        logger.log_metrics({"epoch": module.current_epoch + 1, **{k: float(v) for k, v in values.items()}}, step)


class StepLog:
    """Learning rate, loss and accuracy of single steps, logged many at once: reading them waits for the device."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss and accuracy

    def add(self, step: int, lr: float, loss: Tensor, correct: Tensor, count: int) -> None:
        """Keep a step: the loss, and how many of `count` images are classified correctly, stay on the device."""
        self.steps.append((step, lr, torch.stack([loss.float(), correct / count])))

    def flush(self, module: LightningModule) -> None:
        """Log the steps since the last call."""
        values = torch.stack([values for _, _, values in self.steps]).tolist() if self.steps else []
        for (step, lr, _), (loss, accuracy) in zip(self.steps, values, strict=True):
            log_to_loggers(module, {"lr": lr, "train/loss_step": loss, "train/accuracy_step": accuracy}, step)
        self.steps.clear()


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes: 0 and 1 without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class NonFiniteGuard:
    """Finds the first step whose loss is not finite. Many steps are checked together: a check waits for the device.

    Attributes:
        seen: Step, learning rate and loss of each step since the last check.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, Tensor]] = []

    def watch(self, loss: Tensor, step: int, lr: float) -> None:
        """Keep the loss of a step, and the learning rate that is used in it."""
        self.seen.append((step, lr, loss.detach()))

    def check(self) -> None:
        """Raise RunError if a loss since the last check is not finite."""
        seen, self.seen = self.seen, []
        if not seen or (finite := torch.isfinite(torch.stack([loss for _, _, loss in seen]))).all():
            return
        step, lr, _ = seen[int(finite.int().argmin())]
        if step == 0:
            raise RunError(
                "the training loss is not finite at the first step, before any weight has changed: look at the images "
                "(data.root) and at the weights that training starts from (model.weights), or use "
                "--trainer.precision 32-true"
            )
        raise RunError(f"the training loss is not finite since step {step}, at learning rate {lr:.3g}: {DIVERGED}")

    def check_weights(self, checkpoint: dict[str, Any]) -> None:
        """Raise RunError if weights to be saved are not finite: those of the last step, which no loss has shown yet."""
        if not all_finite(checkpoint["state_dict"]):
            raise RunError(f"the weights are not finite after step {checkpoint['global_step'] - 1}: {DIVERGED}")
