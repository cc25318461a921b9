from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.training import lr_finder
from cifar_lit.training.lr_finder import suggest


@pytest.mark.parametrize("seed", range(5))
def test_suggestion_is_the_learning_rate_up_to_which_the_loss_falls(seed: int) -> None:
    lrs = np.geomspace(1e-6, 1, 100)
    losses = 2.3 - 1.5 / (1 + (3e-3 / lrs) ** 2) + np.random.default_rng(seed).normal(0, 0.1, 100)
    losses[75:] += 20 * np.sin(np.linspace(0, np.pi, 25))  # diverges, then falls again at the highest learning rates
    for _ in range(2):
        lr = suggest(lrs, losses.astype(np.float32))
        assert lr is not None and 8e-3 < lr < 5e-2
        losses[90:] = np.nan
    assert suggest(lrs, np.linspace(2, 3, 100, dtype=np.float32)) is None


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")  # it raises an error without the restoring
def test_range_test_restores_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lr_finder, "suggest", lambda lrs, losses: lrs[-1])
    seed_everything(0)
    data = ImageDataModule(
        "digits", image_size=8, crop_padding=1, cutout_size=3, val_size=20, batch_size=16, num_workers=0
    )
    data.setup("fit")
    module = ImageClassifier(data.num_classes, data.mean, data.std, stem="imagenet")
    before = {name: value.clone() for name, value in module.net.state_dict().items()}
    guard = module.guard
    saver = ModelCheckpoint(tmp_path, monitor="val/accuracy")
    options = {"max_epochs": 1, "max_steps": 2, "limit_train_batches": 3, "accelerator": "cpu", "logger": False}
    trainer = Trainer(**options, default_root_dir=tmp_path, callbacks=[saver], num_sanity_val_steps=0)
    result = lr_finder.find_lr(trainer, module, data, 4)
    assert result.lrs.dtype == np.float64 and result.losses.dtype == np.float32 and len(result.losses) == 4
    assert result.lrs[0] == pytest.approx(1e-6) and (np.diff(result.lrs) > 0).all()
    assert result.suggested == result.lrs[-1]
    assert all(torch.equal(value, before[name]) for name, value in module.net.state_dict().items())
    assert module.guard is guard and not guard.seen and module.lr is None and trainer.max_epochs == 1
    trainer.fit(module, datamodule=data)  # ends before its first validation, unlike the range test
    assert trainer.global_step == 2 and trainer.callbacks[-1] is saver and not saver.best_model_path
