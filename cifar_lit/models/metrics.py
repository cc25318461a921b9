"""What is counted during an epoch: loss and accuracy, and whether the loss is still finite."""

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric

from cifar_lit.utils.errors import RunError


class Scores(Metric):
    """Mean loss and accuracy of an epoch, kept on the device, exact over processes.

    One metric with three sums, because the updates of torchmetrics' own two would be much of a small step.
    """

    loss: Tensor
    right: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, zero in (("loss", 0.0), ("right", 0), ("count", 0)):
            self.add_state(name, torch.tensor(zero), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: its mean loss, logits `(B, C)` and labels `(B,)`."""
        self.loss = self.loss.float() + loss.float() * len(labels)  # bf16-true makes it bfloat16, too coarse for a sum
        self.right += (logits.argmax(1) == labels).sum()
        self.count += len(labels)

    def compute(self) -> dict[str, Tensor]:
        """Return mean loss and accuracy (0..1)."""
        return {"loss": self.loss / self.count, "accuracy": self.right / self.count}

    def everywhere(self) -> list[dict[str, float]]:
        """Return the sums of each process; all must ask together."""
        here = {name: float(getattr(self, name)) for name in self.metric_state}
        sums = [here]
        if dist.is_available() and dist.is_initialized():
            sums = [here] * dist.get_world_size()
            dist.all_gather_object(sums, here)
        return sums

    def go_on(self, sums: list[dict[str, float]], rank: int, world_size: int) -> None:
        """Take back what `everywhere` returned; with another number of processes the first takes all."""
        if len(sums) == world_size:
            mine = [sums[rank]]
        else:
            mine = sums if rank == 0 else []
        for name in self.metric_state:
            getattr(self, name).fill_(sum(part[name] for part in mine))

    def here(self) -> dict[str, float]:
        """Return the same of this process alone; unlike compute(), asks no other process."""
        return {"loss": float(self.loss / self.count), "accuracy": float(self.right / self.count)}


class NonFiniteGuard:
    """Finds the first step whose loss was not finite, looking at many steps at once: each look waits for the device."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss

    def watch(self, loss: Tensor, step: int, lr: float) -> None:
        """Remember a step's loss, and the rate that led to it."""
        self.seen.append((step, lr, loss.detach()))

    def check(self) -> None:
        """Raise RunError if a loss since the last look was not finite."""
        if not self.seen:
            return
        losses = torch.stack([loss for _, _, loss in self.seen])
        bad = [self.seen[i] for i in torch.isfinite(losses).logical_not().nonzero()[:1]]
        self.seen = []
        for step, lr, _ in bad:
            raise RunError(
                f"the training loss is not finite since step {step}, at learning rate {lr:.3g}: the training diverged. "
                "The last checkpoint before it is kept. Lower the optimizer's lr (model.optimizer.init_args.lr), "
                "or give trainer.gradient_clip_val"
            )
