"""What is looked at after trainings of every kind."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

from cifar_lit.analysis.gradcam import activation_maps
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.resnet import LAYERS
from cifar_lit.report.analysis import Analysis


def compiled(module: ImageClassifier) -> Any:
    return torch.compile(module, backend="aot_eager")  # traced as by the default backend, but needs no C compiler


def test_nothing_outlives_its_trainer() -> None:
    def train() -> "weakref.ref[Analysis]":
        data = ImageDataModule("digits", val_size=200, batch_size=64, num_workers=0)
        module = ImageClassifier(data.num_classes, data.mean, data.std, stem="imagenet")
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
        trainer = Trainer(accelerator="cpu", limit_train_batches=1, limit_val_batches=0, **options)
        trainer.fit(module, datamodule=data)
        return weakref.ref(Analysis.of(trainer, module))

    kept = train()
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(
    ("precision", "compile_", "extra"),
    [
        ("bf16-mixed", None, []),
        ("bf16-true", None, []),
        ("32-true", compiled, []),
        ("32-true", None, [EMAWeightAveraging(decay=0.5)]),
    ],
    ids=["bf16-mixed", "bf16-true", "compiled", "ema"],
)
def test_maps_after_training(precision: Any, compile_: Any, extra: list[Callback], tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = ImageDataModule("digits", val_size=200, batch_size=64, num_workers=0)
    module = ImageClassifier(data.num_classes, data.mean, data.std, stem="imagenet")
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/accuracy", mode="max")
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_epochs=1,
        limit_train_batches=3,
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[best, *extra],
    )
    trainer.fit(compile_(module) if compile_ else module, datamodule=data)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    analysis = Analysis.of(trainer, module)
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    for name, value in analysis.net.state_dict().items():  # in the case of EMA these are the averages
        torch.testing.assert_close(value, saved[f"net.{name}"].to(value.dtype))
    images = data.splits.test.images[:3]
    asked = np.array([[0, 1], [2, 3], [4, 5]])
    with torch.inference_mode():
        maps = activation_maps(analysis.net, images, asked, LAYERS)
    for layer in LAYERS:
        expected = by_hand(analysis, images, asked, layer)
        # Some CPUs compute in bfloat16 itself, of 8 bits: there a sum depends on how many images are in the batch.
        atol, rtol = (3e-2 * max(1, expected.max()), 3e-2) if precision == "bf16-true" else (1e-4, 1e-4)
        np.testing.assert_allclose(maps[layer], expected, atol=atol, rtol=rtol)
    assert any(one.max() > 0 for one in maps.values())
    assert analysis.net.normalize.mean.dtype == torch.float32
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    assert not any(one._forward_hooks for one in module.modules())
    assert all((module.state_dict()[name] == value).all() for name, value in state.items())


def by_hand(analysis: Analysis, images: np.ndarray, asked: np.ndarray, layer: str) -> np.ndarray:
    """Grad-CAM as its paper writes it, one image and class at a time, the network cut in two at the layer."""
    stages = list(analysis.net.backbone.named_children())
    cut = [name for name, _ in stages].index(layer) + 1
    maps = []
    for image, classes in zip(images, asked, strict=True):
        for label in classes:
            features = analysis.net.normalize(torch.from_numpy(image[None]))
            for _, stage in stages[:cut]:
                features = stage(features)
            features = features.detach().requires_grad_()
            rest = features
            for name, stage in stages[cut:]:
                rest = stage(rest.flatten(1) if name == "fc" else rest)
            rest[0, int(label)].backward()
            assert features.grad is not None
            weights = features.grad[0].mean(dim=(1, 2))
            maps.append(torch.einsum("c,chw->hw", weights, features[0]).clamp(min=0).detach().numpy())
    return np.stack(maps).reshape(*asked.shape, *maps[0].shape)
