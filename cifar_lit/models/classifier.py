"""The LightningModule: loss, metrics, optimizer and schedule around the network."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy

from cifar_lit.data.dataset import Batch
from cifar_lit.models.metrics import NonFiniteGuard, Scores
from cifar_lit.models.optim import parameter_groups, set_learning_rates
from cifar_lit.models.resnet import Classifier, Init, MemoryFormat, Norm, Stem
from cifar_lit.models.schedules import Schedule
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.hardware import bfloat16_unit

CONSTANT = Schedule()
COMPILING_PAYS = 1000  # steps
CHECK_EVERY = 50  # steps between two looks at whether the loss is still finite


class ImageClassifier(LightningModule):
    """ResNet-18 with its training.

    Args:
        num_classes: Number of classes, at least 2.
        mean: Channel means of the training images, in 0..1.
        std: Channel standard deviations of the training images, in 0..1.
        stem: `cifar` begins with a 3x3 convolution and no pooling, for images of about 32 px; `imagenet` is
            torchvision's 7x7 convolution of stride 2 and pooling.
        norm: `batch` for BatchNorm, `layer` for LayerNorm in its place everywhere.
        init: How the convolutions begin: `he` as in torchvision (arXiv 1502.01852), `torch` with PyTorch's own, smaller
            weights, which turn faster before a BatchNorm (arXiv 1706.05350): for short trainings.
        zero_init_residual: Whether every residual block begins as the identity, by a zero weight in its last norm
            (arXiv 1706.02677), which steadies the first steps at a high rate.
        optimizer: Any class of torch.optim with its arguments. Its lr is the rate that the schedule starts from
            (the peak, for onecycle).
        schedule: How the learning rate changes; see its own options.
        norm_weight_decay: Weight decay of norms and biases, 0 or more; default: the optimizer's own. 0 leaves them free
            (arXiv 1812.01187, section 3.1).
        norm_bias_lr_mult: What the learning rate of the norms' biases is multiplied by, above 0; those that learn
            faster shorten short trainings, 64 times as fast in arXiv 2404.00498, section 3.4.
        label_smoothing: Share of the target probability spread over all classes in training, 0 up to 1
            (arXiv 1512.00567). Validation and test always use the plain cross entropy.
        memory_format: How the network's weights lie in memory; channels_last is faster on most devices.
        compile: Whether torch.compile makes faster code of the network first, which takes a minute or so and needs a
            C++ compiler on a CPU.
    """

    def __init__(
        self,
        num_classes: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        stem: Stem = "cifar",
        norm: Norm = "batch",
        init: Init = "he",
        zero_init_residual: bool = False,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        schedule: Schedule = CONSTANT,
        norm_weight_decay: float | None = None,
        norm_bias_lr_mult: float = 1.0,
        label_smoothing: float = 0.0,
        memory_format: MemoryFormat = "channels_last",
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"model.label_smoothing must be 0 or more and below 1, got {label_smoothing}")
        if norm_weight_decay is not None and norm_weight_decay < 0:
            raise UsageError(f"model.norm_weight_decay must be 0 or more, got {norm_weight_decay}")
        if norm_bias_lr_mult <= 0:
            raise UsageError(f"model.norm_bias_lr_mult must be above 0, got {norm_bias_lr_mult}")
        self.save_hyperparameters("num_classes", "mean", "std", "stem", "norm", "label_smoothing")
        self.net = Classifier(num_classes, mean, std, stem, norm, init, zero_init_residual, memory_format)
        try:  # a wrong argument is told now, not when the run has already begun
            optimizer(parameter_groups(self.net, norm_weight_decay, norm_bias_lr_mult))
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"model.optimizer: {error}; see the documentation of this torch.optim class") from None
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.norm_weight_decay = norm_weight_decay
        self.norm_bias_lr_mult = norm_bias_lr_mult
        self.label_smoothing = label_smoothing
        self.compile_net = compile
        self.lr: float | None = None  # set by the learning-rate finder, takes the place of the optimizer's own
        self.epoch_ended: dict[str, float] = {}  # what was logged at this epoch's last step, once it was taken
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] = {}  # of the checkpoint that is gone on from, as is:
        self._scores_so_far: list[dict[str, float]] = []
        self.train_scores, self.val_scores, self.test_scores = Scores(), Scores(), Scores()
        self.guard = NonFiniteGuard()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; at once the one that Lightning sets fifty times a step, which cannot be a parameter."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images `(B, H, W, 3)` to logits `(B, num_classes)`."""
        logits: Tensor = self.net(images)
        return logits

    def running(self) -> dict[str, float]:
        """Return loss and accuracy (0..1) of the epoch so far in this process, and the learning rate."""
        return {**self.train_scores.here(), "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; metrics stay on the device until the epoch's last step."""
        loss = self._step(self.train_scores, batch, self.label_smoothing)
        lr, step = self.trainer.optimizers[0].param_groups[0]["lr"], self.global_step
        self.guard.watch(loss, step, lr)
        ends = self.trainer.is_last_batch
        steps = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or ends  # else gradients are gathered
        last = ends or (steps and step + 1 == self.trainer.max_steps)
        if last or batch_idx % CHECK_EVERY == 0:  # each look waits for the device
            self.guard.check()
        every = getattr(self.trainer, "log_every_n_steps", 0) or 1  # Lightning's types do not know it
        if steps and (last or (step + 1) % every == 0):  # logging takes as long as a small step
            self._write({"lr": lr}, step)
        if last:
            self.log_train_scores(step)
        return loss

    def log_train_scores(self, step: int) -> None:
        """Log what the epoch's steps counted, if any did since; an epoch can end before its last one (max_time)."""
        if self.train_scores.update_called:
            lr = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.log("lr", lr, logger=False)  # for callbacks
            scores = self._log("train", self.train_scores)
            self._write(scores, step)
            self.epoch_ended = {"lr": lr, **{name: float(value) for name, value in scores.items()}}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count loss and accuracy."""
        self._step(self.val_scores, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count loss and accuracy."""
        self._step(self.test_scores, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and step ReduceLROnPlateau.

        Lightning would step it after the checkpoint was written, so that a resumed run would miss a step.
        """
        loss = self._log("val", self.val_scores)["val/loss"]
        if self.plateau is not None and not self.trainer.sanity_checking:
            self.plateau.step(float(loss))

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._log("test", self.test_scores)

    def setup(self, stage: str) -> None:
        """Compile the network if asked to; it does so at its first batch, and keeps its weights and their names."""
        if self.compile_net and stage == "fit":
            self.net.compile()

    def on_train_epoch_start(self) -> None:
        """Forget the figures of the epoch before."""
        self.epoch_ended = {}

    def on_train_start(self) -> None:
        """Go on with the scores of an interrupted epoch; refuse what cannot work, tell what has no effect."""
        if self._scores_so_far:
            self.train_scores.go_on(self._scores_so_far, self.global_rank, self.trainer.world_size)
            self._scores_so_far = []
        steps = self.trainer.estimated_stepping_batches
        if self.compile_net and self.device.type == "cpu" and bfloat16_unit() != "AMX":
            rank_zero_warn(
                "model.compile made nothing faster on a CPU without AMX where it was measured, BENCHMARKS.md"
            )
        elif self.compile_net and steps < COMPILING_PAYS:
            rank_zero_warn(
                f"model.compile takes a minute or so, which the {steps:.0f} steps of this training hardly save"
            )
        for config in self.trainer.lr_scheduler_configs:  # as the checkpoint had it
            planned = getattr(config.scheduler, "total_steps", getattr(config.scheduler, "T_max", steps))
            if steps > planned:
                raise UsageError(
                    f"model.schedule.name={self.schedule.name} was laid out for {planned} steps, and this training has "
                    f"{steps:.0f}: give the trainer.max_epochs, data and batch size that it began with, or begin a new "
                    "one without --ckpt_path"
                )
        if self.plateau is not None and not any(self.trainer.num_val_batches):
            raise UsageError(
                "model.schedule.name=plateau waits for the validation loss, but there is no validation: give "
                "data.val_size above 0 or another schedule"
            )
        for option in self.schedule.without_effect():
            rank_zero_warn(f"model.schedule.{option} has no effect with model.schedule.name={self.schedule.name}")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule, each stepped at its own interval."""
        groups = parameter_groups(self.net, self.norm_weight_decay, self.norm_bias_lr_mult)
        optimizer = self.make_optimizer(groups)
        set_learning_rates(optimizer, self.lr)
        # A fused optimizer would undo the scaling of float16 itself: Lightning cannot clip gradients then, and torch
        # takes whatever lies in memory for the momentum after a first step that overflowed.
        vars(optimizer)["_step_supports_amp_scaling"] = False
        self.plateau = self.schedule.per_validation(optimizer)
        if self.plateau is not None:  # stepped in on_validation_epoch_end
            self.plateau.load_state_dict(self._plateau_state)
        if (by_epoch := self.schedule.per_epoch(optimizer)) is not None:
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_epoch, "interval": "epoch"}}
        if self.schedule.goes_by_steps:
            by_step = self.schedule.per_step(optimizer, self.trainer.estimated_stepping_batches)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_step, "interval": "step"}}
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep ReduceLROnPlateau's state and the scores so far; keep a diverged training out of every checkpoint."""
        self.guard.check()
        checkpoint["train_scores"] = self.train_scores.everywhere()
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take both, for configure_optimizers and on_train_start, which come later."""
        self._plateau_state = checkpoint.get("plateau", {})
        self._scores_so_far = checkpoint.get("train_scores", [])

    def _step(self, scores: Scores, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        logits = self.net(batch.images)
        loss = cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
        scores.update(loss.detach(), logits.detach(), batch.labels)
        return loss

    def _log(self, stage: str, scores: Scores) -> dict[str, Tensor]:
        """Log the metrics of an epoch over all processes, start anew, and return them."""
        values: dict[str, Tensor] = scores.compute()
        named = {f"{stage}/{name}": value for name, value in values.items()}
        # The values are the same in every process already; sync_dist only keeps Lightning from warning.
        self.log_dict(named, logger=stage != "train", on_step=False, on_epoch=True, sync_dist=True)
        scores.reset()
        return named

    def _write(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """Give values of a training step to the loggers; Lightning would wait until its checkpoint is written."""
        for logger in self.loggers:
            logger.log_metrics({"epoch": self.current_epoch, **{k: float(v) for k, v in values.items()}}, step)
