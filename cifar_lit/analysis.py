"""What every part of the report looks at: the final weights, and what they say about the pictures."""

import copy
from functools import cached_property
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from cifar_lit.data import PictureData
from cifar_lit.errors import UsageError
from cifar_lit.module import ImageClassifier
from cifar_lit.net import Classifier
from cifar_lit.pictures import Split
from cifar_lit.predictions import Predictions, predict
from cifar_lit.splits import stratified_split

_CURRENT: "WeakKeyDictionary[Trainer, Analysis]" = WeakKeyDictionary()


class Analysis:
    """The end of one training; each part is computed when first asked for, once, and shared by all callbacks.

    Every process must ask for the same parts in the same order, because the passes over the data are shared out.

    Args:
        trainer: After fitting.
        module: The trained module; stays as it is, the analysis works on a copy of its network.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, PictureData) or not isinstance(module, ImageClassifier):
            raise UsageError(
                "the report's callbacks need cifar_lit's own module and data: "
                "trainer.fit(ImageClassifier(...), datamodule=PictureData(...))"
            )
        self.trainer = trainer
        self.data = data
        self.net: Classifier = copy.deepcopy(module.net)
        self.weights = self._load_weights()
        self.net.to(trainer.strategy.root_device).float().eval().requires_grad_(False)

    @classmethod
    def of(cls, trainer: Trainer, module: LightningModule) -> "Analysis":
        """Return the trainer's analysis, a new one if it has none."""
        if trainer not in _CURRENT:
            _CURRENT[trainer] = cls(trainer, module)
        return _CURRENT[trainer]

    @staticmethod
    def forget(trainer: Trainer) -> None:
        """Drop what an earlier fit of the same trainer left."""
        _CURRENT.pop(trainer, None)

    @cached_property
    def test(self) -> Predictions:
        """One pass over the test set; only part of it under trainer.limit_test_batches."""
        return self._predict("test", self.data.test_dataset.indices, self.trainer.limit_test_batches)

    @cached_property
    def train(self) -> Predictions:
        """One pass over the training pictures, not augmented; part of it under trainer.limit_train_batches."""
        return self._predict("train", self.data.train_dataset.indices, self.trainer.limit_train_batches)

    def _predict(self, name: str, indices: NDArray[np.int64], limit: float | int) -> Predictions:
        split: Split = getattr(self.data.pictures, name)
        per_batch = self.data.batch_size * self.trainer.world_size
        count = int(len(indices) * limit) if isinstance(limit, float) else min(len(indices), limit * per_batch)
        # Part of a split is a part of each class: a folder's pictures lie class after class.
        indices = indices[stratified_split(split.labels[indices], count, self.data.seed)[1]]
        return predict(
            self.net,
            split,
            indices,
            device=self.trainer.strategy.root_device,
            context=self.trainer.precision_plugin.forward_context,
            progress=f"final pass, {name}",
        )

    def _load_weights(self) -> str:
        """Load the best checkpoint's weights if there are any; say which ones the network has now."""
        savers = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        best = [saver for saver in savers if saver.monitor and saver.best_model_path]
        if not best:
            return f"last weights, epoch {self.trainer.current_epoch}"
        path = Path(best[0].best_model_path)
        if not path.exists():  # the run's folder was moved before it was resumed
            path = Path(best[0].dirpath or ".") / path.name
        epoch, state = 0, {}
        if self.trainer.is_global_zero:  # other machines may not see the file
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            epoch, state = checkpoint["epoch"] + 1, checkpoint["state_dict"]
        epoch, state = self.trainer.strategy.broadcast((epoch, state))
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
        return f"best weights, epoch {epoch}"
