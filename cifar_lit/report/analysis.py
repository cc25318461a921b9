"""What every part of the report looks at: the final weights, and what they say about the images."""

import copy
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from torch import nn

from cifar_lit.analysis.predictions import Predictions, average, predict
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import Split
from cifar_lit.data.sampling import stratified_split
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.resnet import ResNet18
from cifar_lit.training import checkpoints
from cifar_lit.utils.errors import UsageError

CURRENT = "_cifar_lit_analysis"  # the trainer's attribute that keeps it, and goes with the trainer


class Analysis:
    """The end of one training; each part is computed when first asked for, once, and shared by all callbacks.

    Every process must ask for the same parts in the same order, because the passes over the data are shared out.

    Args:
        trainer: Knows device, precision, processes, loggers and limits.
        data: The images.
        net: The network to look at, with its final weights; it is put into evaluation mode and float32.
        weights: Which weights these are, in a few words.
        history: A row of figures for each epoch of the training, as `EpochHistory` keeps them.
        run: The folder of the run, with its `config.yaml` and `provenance.json`
            if it was started from the command line.

    Attributes:
        evaluated: The command that made this report, if it was not the training itself.
        flip_tta: What the mean over each test image and its mirror image says, where it was asked for.
        problems: Why parts of the report could not be made, by the part's name.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: ImageDataModule,
        net: ResNet18,
        weights: str,
        history: list[dict[str, float]],
        run: Path,
    ) -> None:
        self.trainer = trainer
        self.data = data
        self.net = net.to(trainer.strategy.root_device).float().eval().requires_grad_(False)
        self.weights = weights
        self.history = history
        self.run = run
        self.evaluated: str | None = None
        self.flip_tta: Predictions | None = None
        self.problems: dict[str, str] = {}

    @classmethod
    def of(cls, trainer: Trainer, module: LightningModule) -> "Analysis":
        """Return the analysis of a trainer that just fitted; of a copy: the module stays as training leaves it."""
        if CURRENT not in vars(trainer):
            data = getattr(trainer, "datamodule", None)
            if not isinstance(data, ImageDataModule) or not isinstance(module, ImageClassifier):
                raise UsageError(
                    "the report's callbacks need cifar_lit's own module and data: "
                    "trainer.fit(ImageClassifier(...), datamodule=ImageDataModule(...))"
                )
            for callback in getattr(trainer, "callbacks", []):
                if isinstance(callback, WeightAveraging):
                    callback.on_train_end(trainer, module)  # Lightning skips it where a finished training is resumed
            net = copy.deepcopy(module.net)
            weights = _load_best(trainer, net)
            from cifar_lit.callbacks.history import EpochHistory

            history = next((c.rows for c in getattr(trainer, "callbacks", []) if isinstance(c, EpochHistory)), [])
            run = Path(trainer.log_dir or trainer.default_root_dir)
            vars(trainer)[CURRENT] = cls(trainer, data, net, weights, history, run)
        current: Analysis = vars(trainer)[CURRENT]
        return current

    @staticmethod
    def forget(trainer: Trainer) -> None:
        """Drop what an earlier fit of the same trainer left."""
        vars(trainer).pop(CURRENT, None)

    @cached_property
    def test(self) -> Predictions:
        """One pass over the test set, with features; only part of it under trainer.limit_test_batches."""
        indices, limit = self.data.test_dataset.indices, self.trainer.limit_test_batches
        return self._predict("test", indices, limit, last=self.net.backbone.fc)

    def compute_flip_tta(self) -> None:
        """Make one more pass over the same test images, mirrored."""
        if self.flip_tta is None:
            indices, limit = self.data.test_dataset.indices, self.trainer.limit_test_batches
            self.flip_tta = average(self.test, self._predict("test", indices, limit, mirrored=True))

    @cached_property
    def train(self) -> Predictions:
        """One pass over some training images, not augmented: data.train_eval_size, or what was trained on if less."""
        indices, limit = self.data.train_dataset.indices, self.trainer.limit_train_batches
        return self._predict("train", indices, limit, most=self.data.train_eval_size)

    def _predict(
        self,
        name: str,
        indices: NDArray[np.int64],
        limit: float | int,
        most: int | None = None,
        last: nn.Module | None = None,
        mirrored: bool = False,
    ) -> Predictions:
        split: Split = getattr(self.data.splits, name)
        per_batch = self.data.batch_size * self.trainer.world_size
        count = int(len(indices) * limit) if isinstance(limit, float) else min(len(indices), limit * per_batch)
        count = max(1, min(count, most or count))
        # Part of a split is a part of each class: a folder's images lie class after class.
        indices = indices[stratified_split(split.labels[indices], count, self.data.seed)[1]]
        return predict(
            self.net,
            split,
            indices,
            device=self.trainer.strategy.root_device,
            context=self.trainer.precision_plugin.forward_context,
            progress=f"final pass, {name}{', mirrored' * mirrored}",
            last=last,
            mirrored=mirrored,
        )


def _load_best(trainer: Trainer, net: ResNet18) -> str:
    """Load the best checkpoint's weights if there are any; say which ones the network has now."""
    savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    best = [saver for saver in savers if saver.monitor and saver.best_model_path]
    best.sort(key=lambda saver: saver.filename != "best")  # the project's own before a user's
    if not best:
        if trainer.world_size > 1:  # each process has BatchNorm statistics of its own since the last step
            net.load_state_dict(trainer.strategy.broadcast({k: v.cpu() for k, v in net.state_dict().items()}))
        epoch = vars(trainer.fit_loop.epoch_progress.current)["processed"]  # current_epoch lags after max_steps
        return f"last weights, epoch {epoch}"
    path = Path(best[0].best_model_path)
    if not path.exists():  # the run's folder was moved before it was resumed
        path = Path(best[0].dirpath or ".") / path.name
    epoch, state = 0, {}
    if trainer.is_global_zero:  # other machines may not see the file
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        epoch, state = checkpoint["epoch"] + 1, checkpoint["state_dict"]
    epoch, state = trainer.strategy.broadcast((epoch, state))
    net.load_state_dict(checkpoints.net_state(state))
    return f"best weights, epoch {epoch}"
