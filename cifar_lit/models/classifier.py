"""The LightningModule: loss, metrics, optimizer and schedule of the network."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cifar_lit.data.dataset import Batch
from cifar_lit.models.compilation import warn_if_slower
from cifar_lit.models.finetuning import FreezeBackbone
from cifar_lit.models.metrics import EpochMetrics, NonFiniteGuard, StepLog, log_epoch
from cifar_lit.models.mixing import Mixing
from cifar_lit.models.optim import build_optimizer, clip_gradients, parameter_groups
from cifar_lit.models.pretrained import initialize
from cifar_lit.models.resnet import Init, MemoryFormat, Norm, ResNet18, Stem
from cifar_lit.models.schedules import Schedule, total_steps
from cifar_lit.utils.errors import UsageError

CONSTANT = Schedule()
GUARD_INTERVAL = 50  # steps; each check of the guard waits for the device


class ImageClassifier(LightningModule):
    """ResNet-18 with its training.

    Args:
        num_classes: Number of classes, at least 2.
        mean: Channel means of the training images, in 0..1.
        std: Channel standard deviations of the training images, in 0..1.
        stem: `cifar` is a 3x3 convolution without pooling, for images of about 32 px; `imagenet` is torchvision's 7x7
            convolution of stride 2 with pooling.
        norm: `batch` for BatchNorm, `layer` for LayerNorm.
        init: Initialization of the convolutions: `he` as in torchvision (arXiv 1502.01852), `torch` with PyTorch's
            default, smaller weights, which learn faster before a BatchNorm (arXiv 1706.05350); for short runs.
        zero_init_residual: Whether to initialize every residual block as the identity, which stabilizes the first
            steps at a high learning rate (arXiv 1706.02677).
        optimizer: Any class of torch.optim with its arguments. The schedule starts at its lr (onecycle: peaks at it).
        schedule: How the learning rate changes; see its own options.
        norm_weight_decay: Weight decay of normalization layers and biases, 0 or more (0 in arXiv 1812.01187, section
            3.1); default: the optimizer's own.
        norm_bias_lr_mult: Multiplies the learning rate of normalization layers' biases, above 0; arXiv 2404.00498: 64.
        label_smoothing: Fraction of the target probability spread over all classes in training, 0 up to 1
            (arXiv 1512.00567). Validation and test always use the plain cross entropy.
        mixup_alpha: MixUp of training batches (arXiv 1710.09412): parameter of the Beta distribution, such as 0.2; 0
            turns it off. Training accuracy is then measured against the dominant label of each mixed image.
        cutmix_alpha: CutMix (arXiv 1905.04899), likewise, such as 1. With both, each batch gets one of them at random.
        memory_format: Memory format of the weights; channels_last is faster on most devices.
        compile: Whether to use torch.compile, which takes a minute or so and needs a C++ compiler on a CPU.
        weights: Initial weights: of a run (the best, else the last), a `.ckpt` file, or torchvision's ResNet-18:
            `imagenet` (downloaded once) or a `.pth` file. They include the input normalization, ImageNet's mean and std
            for torchvision's. A last layer for other classes is initialized as usual.
        freeze_epochs: Epochs at the start in which only the last layer is trained; BatchNorm's statistics stay, too.
        backbone_lr_mult: Multiplies the learning rate of all layers but the last, above 0, such as 0.1 with `weights`.
            The logged learning rate is that of the last layer.
        classes: Names of the classes, to compare them with those of `weights`.
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
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        memory_format: MemoryFormat = "channels_last",
        compile: bool = False,
        weights: str | None = None,
        freeze_epochs: int = 0,
        backbone_lr_mult: float = 1.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"model.label_smoothing must be 0 or more and below 1, got {label_smoothing}")
        options = {"stem": stem, "norm": norm, "label_smoothing": label_smoothing}
        statistics = {"mean": [*mean], "std": [*std]}  # as lists, because hparams.yaml would contain Python tuples
        self.save_hyperparameters({"num_classes": num_classes, **statistics, **options})
        self.net = ResNet18(num_classes, mean, std, stem, norm, init, zero_init_residual, memory_format)
        if weights is not None:
            initialize(self, weights, classes)
        self.lr_mults = {"norm_bias_lr_mult": norm_bias_lr_mult, "backbone_lr_mult": backbone_lr_mult}
        groups = parameter_groups(self.net, norm_weight_decay, **self.lr_mults)
        build_optimizer(optimizer, groups)  # report an invalid argument before the run starts
        self.make_optimizer, self.schedule, self.freeze_epochs = optimizer, schedule, freeze_epochs
        self.norm_weight_decay, self.label_smoothing, self.compile_net = norm_weight_decay, label_smoothing, compile
        self.lr: float | None = None  # replaces the optimizer's own
        self.mixing = Mixing(mixup_alpha, cutmix_alpha, num_classes)
        self.guard, self.step_log = NonFiniteGuard(), StepLog()
        self._batch: tuple[Tensor, Tensor, int]  # the last training batch: loss, number of correct images, images
        self.train_metrics, self.val_metrics, self.test_metrics = EpochMetrics(), EpochMetrics(), EpochMetrics()
        self.plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] = {}  # of the checkpoint, which is loaded before the optimizer is built

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images `(B, H, W, 3)` to logits `(B, num_classes)`."""
        return cast(Tensor, self.net(images))

    def running_metrics(self) -> dict[str, float]:
        """Return loss, accuracy (0..1) and lr of the current epoch in this process; empty before its first step."""
        return {**self.train_metrics.local(), "lr": self._current_lr()} if self.train_metrics.update_called else {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss."""
        images, labels = self.mixing(batch.images, batch.labels, self.current_epoch, batch_idx, self.global_rank)
        loss, correct = self._step(self.train_metrics, images, labels, self.label_smoothing)
        self._batch = (loss.detach(), correct, len(batch.labels))
        self.guard.watch(loss, self.global_step, self._current_lr())
        if batch_idx % GUARD_INTERVAL == 0 or self.trainer.is_last_batch:
            self._check_steps()
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update loss and accuracy."""
        self._step(self.val_metrics, batch.images, batch.labels)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the probability of each class: `(B, num_classes)`, float32, each row sums to 1."""
        return self.forward(batch.images).float().softmax(1)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update loss and accuracy."""
        self._step(self.test_metrics, batch.images, batch.labels)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep learning rate, loss and accuracy of the step's last batch, to be logged."""
        step, last_step = self.global_step + 1, self.trainer.max_steps
        every = getattr(self.trainer, "log_every_n_steps", 0) or 1  # missing from Lightning's type annotations
        if step % every == 0 or step == last_step or self.trainer.is_last_batch:
            self.step_log.add(step - 1, self._current_lr(), *self._batch)

    def on_train_epoch_start(self) -> None:
        """Reset the metrics, which callbacks can read until here."""
        self.train_metrics.reset()

    def on_train_epoch_end(self) -> None:
        """Log the metrics."""
        self._check_steps()
        log_epoch(self, "train", self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and step ReduceLROnPlateau.

        Lightning would step it after the checkpoint is written, so that a resumed run would miss a step.
        """
        loss = log_epoch(self, "val", self.val_metrics)["val/loss"]
        self.val_metrics.reset()
        if self.plateau is not None and not self.trainer.sanity_checking:
            self.plateau.step(float(loss))

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        log_epoch(self, "test", self.test_metrics)
        self.test_metrics.reset()

    def configure_callbacks(self) -> list[Callback]:
        """Return what freezes the backbone."""
        return [FreezeBackbone(self.freeze_epochs)] if self.freeze_epochs else []

    def setup(self, stage: str) -> None:
        """Compile the network, in place: its weights keep their names."""
        if self.compile_net and stage == "fit":
            self.net.compile()

    def on_train_start(self) -> None:
        """Refuse a schedule that cannot work, and warn about options without effect."""
        self.step_log.steps.clear()  # of the learning rate range test
        self.schedule.check(self.trainer)
        if self.compile_net:
            warn_if_slower(self.device, self.trainer.estimated_stepping_batches)

    def on_train_end(self) -> None:
        """Warn if the schedule is not complete."""
        self.schedule.check_complete(self.trainer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule."""
        groups = parameter_groups(self.net, self.norm_weight_decay, **self.lr_mults)
        optimizer = build_optimizer(self.make_optimizer, groups, self.lr)
        scheduler = self.schedule.build(optimizer, lambda: total_steps(self.trainer))
        if scheduler is None:
            return optimizer
        if isinstance(scheduler, ReduceLROnPlateau):  # stepped in on_validation_epoch_end
            self.plateau = scheduler
            self.plateau.load_state_dict(self._plateau_state)
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.schedule.interval}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients, also those of fused optimizers in mixed precision, which Lightning refuses."""
        if gradient_clip_val:
            clip_gradients(self.trainer, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metrics so far, ReduceLROnPlateau's state and which parameters are frozen.

        Raises:
            RunError: The training diverged.
        """
        self._check_steps()
        self.guard.check_weights(checkpoint)
        for logger in self.loggers:
            logger.save()  # a resumed training does not log again what was logged before its checkpoint
        checkpoint["train_metrics"] = self.train_metrics.gather()
        checkpoint["frozen"] = [name for name, one in self.named_parameters() if not one.requires_grad]
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in checkpoint.get("frozen", []))
        self.train_metrics.restore(checkpoint.get("train_metrics", []))
        self._plateau_state = checkpoint.get("plateau", {})

    def _step(
        self, metrics: EpochMetrics, images: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Update the metrics; return the loss and the number of correct predictions."""
        logits = self.net(images)
        loss = cross_entropy(logits, labels, label_smoothing=label_smoothing)
        dominant = labels.argmax(1) if labels.ndim == 2 else labels  # of mixed images
        count, correct = len(labels), (logits.argmax(1) == dominant).sum()
        metrics.update(loss.detach().float() * count, correct, count)
        return loss, correct

    def _check_steps(self) -> None:
        """Log the steps since the last call, and raise RunError if a loss is not finite: both wait for the device."""
        self.step_log.flush(self)
        self.guard.check()

    def _current_lr(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])
