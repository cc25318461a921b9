"""The LightningModule: loss, metrics, optimizer and schedule around the network."""

from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import ModuleDict
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from cifar_lit.data import Batch
from cifar_lit.errors import RunError, UsageError
from cifar_lit.net import Classifier, MemoryFormat, Norm, Stem
from cifar_lit.schedules import Schedule

Stage = Literal["train", "val", "test"]


class ImageClassifier(LightningModule):
    """ResNet-18 with its training.

    Args:
        num_classes: Number of classes, at least 2.
        mean: Channel means of the training pictures, in 0..1.
        std: Channel standard deviations of the training pictures, in 0..1.
        stem: `cifar` begins with a 3x3 convolution and no pooling, for pictures of about 32 px; `imagenet` is
            torchvision's 7x7 convolution of stride 2 and pooling.
        norm: `batch` for BatchNorm, `layer` for LayerNorm in its place everywhere.
        optimizer: Any class of torch.optim with its arguments. Its lr is the rate that the schedule starts from
            (the peak, for onecycle).
        schedule: How the learning rate changes; see its own options.
        label_smoothing: Share of the target probability spread over all classes in training, 0 up to 1
            (arXiv 1512.00567). Validation and test always use the plain cross entropy.
        memory_format: How the network's weights lie in memory; channels_last is faster on most devices.
    """

    def __init__(
        self,
        num_classes: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        stem: Stem = "cifar",
        norm: Norm = "batch",
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        schedule: Schedule = Schedule(),  # noqa: B008 - never changed
        label_smoothing: float = 0.0,
        memory_format: MemoryFormat = "channels_last",
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"model.label_smoothing must be 0 or more and below 1, got {label_smoothing}")
        self.save_hyperparameters("num_classes", "mean", "std", "stem", "norm", "label_smoothing")
        self.net = Classifier(num_classes, mean, std, stem, norm, memory_format)
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.lr: float | None = None  # set by the learning-rate finder, takes the place of the optimizer's own
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] = {}
        self.metrics = ModuleDict({f"{stage}_": _metrics(num_classes) for stage in ("train", "val", "test")})
        self._non_finite = _NonFinite()

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 pictures `(B, H, W, 3)` to logits `(B, num_classes)`."""
        logits: Tensor = self.net(images)
        return logits

    def running(self) -> dict[str, float]:
        """Return loss and accuracy (0..1) of the epoch so far in this process, and the learning rate."""
        loss, accuracy = (self.metrics["train_"][name].metric_state for name in ("loss", "accuracy"))
        return {
            "loss": float(loss["mean_value"] / loss["weight"]),
            "accuracy": float(accuracy["tp"] / (accuracy["tp"] + accuracy["fn"])),
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; metrics stay on the device until the epoch's last step."""
        loss = self._step("train", batch, self.label_smoothing)
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("lr", lr)
        self._non_finite.watch(loss, self.global_step, lr)
        last = self.trainer.is_last_batch or self.global_step + 1 == self.trainer.max_steps
        if last or batch_idx % self.trainer.log_every_n_steps == 0:  # each look waits for the device
            self._non_finite.check()
        if last:
            self._log("train")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count loss and accuracy."""
        self._step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count loss and accuracy."""
        self._step("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and step ReduceLROnPlateau.

        Lightning would step it after the checkpoint was written, so that a resumed run would miss a step.
        """
        loss = self.metrics["val_"]["loss"].compute()  # over all processes
        self._log("val")
        if self.plateau is not None and not self.trainer.sanity_checking:
            self.plateau.step(float(loss))

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._log("test")

    def on_train_start(self) -> None:
        """Refuse what cannot work, tell what has no effect."""
        if self.plateau is not None and not any(self.trainer.num_val_batches):
            raise UsageError(
                "model.schedule.name=plateau waits for the validation loss, but there is no validation: give "
                "data.val_size above 0 or another schedule"
            )
        for option in self.schedule.without_effect():
            rank_zero_warn(f"model.schedule.{option} has no effect with model.schedule.name={self.schedule.name}")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule, each stepped at its own interval."""
        optimizer = self.make_optimizer(self.parameters())
        if self.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        if (plateau := self.schedule.per_validation(optimizer)) is not None:
            plateau.load_state_dict(self._plateau_state)
            self.plateau = plateau
        elif (scheduler := self.schedule.per_epoch(optimizer)) is not None:
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}
        elif self.schedule.name != "constant":
            scheduler = self.schedule.per_step(optimizer, self.trainer.estimated_stepping_batches)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        return {"optimizer": optimizer}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep ReduceLROnPlateau's state, and keep a diverged training out of every checkpoint."""
        self._non_finite.check()
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take ReduceLROnPlateau's state, for configure_optimizers, which comes later."""
        self._plateau_state = checkpoint.get("plateau", {})

    def _step(self, stage: Stage, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        logits = self.net(batch.images)
        loss = cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
        metrics = self.metrics[f"{stage}_"]
        metrics["loss"].update(loss.detach(), len(batch.labels))
        metrics["accuracy"].update(logits.detach(), batch.labels)
        return loss

    def _log(self, stage: Stage) -> None:
        """Hand the metrics to Lightning, which sums them over processes, computes and resets them."""
        metrics: dict[str, Metric] = {f"{stage}/{name}": m for name, m in self.metrics[f"{stage}_"].items()}  # type: ignore[misc]
        self.log_dict(metrics, on_step=False, on_epoch=True)


class _NonFinite:
    """Remembers, on the device and so without waiting for it, the first step whose loss was not finite."""

    def __init__(self) -> None:
        self.first: Tensor | None = None  # (step, learning rate), nan while all is well

    def watch(self, loss: Tensor, step: int, lr: float) -> None:
        if self.first is None:
            self.first = torch.full((2,), torch.nan, device=loss.device, dtype=torch.float64)
        here = torch.tensor((step, lr), dtype=torch.float64).to(loss.device, non_blocking=True)
        new = ~torch.isfinite(loss.detach()) & self.first.isnan()
        self.first = torch.where(new, here, self.first)

    def check(self) -> None:
        if self.first is None or self.first[0].isnan():
            return
        step, lr = self.first.tolist()
        raise RunError(
            f"the training loss is not finite since step {step:.0f}, at learning rate {lr:.3g}: the training diverged. "
            "The last checkpoint before it is kept. Lower the optimizer's lr (model.optimizer.init_args.lr), "
            "or give trainer.gradient_clip_val"
        )


def _metrics(num_classes: int) -> ModuleDict:
    return ModuleDict(
        {
            "loss": MeanMetric(),
            "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
        }
    )

