"""The results of trainings of every kind, and reading them again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

from cifar_lit.analysis.gradcam import activation_maps
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.resnet import LAYERS, ResNet18
from cifar_lit.report import drawing, figures
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from tests.conftest import QUICK, QUIET_TRAINER


def compiled(module: ImageClassifier) -> Any:
    return torch.compile(module, backend="eager")  # traced as by the default backend, but compiles nothing


class Keep(ReportCallback):
    """Keeps the results."""

    results: RunResults

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        self.results = results


@pytest.mark.parametrize(
    ("precision", "compile_", "extra"),
    [
        pytest.param("bf16-mixed", None, [], marks=pytest.mark.slow),
        pytest.param("bf16-true", None, [], marks=pytest.mark.slow),
        pytest.param("32-true", compiled, [], marks=pytest.mark.slow),
        ("32-true", None, [EMAWeightAveraging(decay=0.5)]),
    ],
    ids=["bf16-mixed", "bf16-true", "compiled", "ema"],
)
def test_network_and_cams_after_training(precision: Any, compile_: Any, extra: list[Callback], tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = ImageDataModule("digits", val_size=200, batch_size=16, num_workers=0)
    module = ImageClassifier(data.num_classes, data.mean, data.std, stem="imagenet")
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/accuracy", mode="max")
    keep = Keep()
    trainer = Trainer(
        precision=precision,
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=2,
        limit_test_batches=2,
        default_root_dir=tmp_path,
        callbacks=[best, *extra, keep],
        **QUIET_TRAINER,
    )
    trainer.fit(compile_(module) if compile_ else module, datamodule=data)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    net = keep.results.network
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    for name, value in net.state_dict().items():  # in the case of EMA these are the averages
        torch.testing.assert_close(value, saved[f"net.{name}"].to(value.dtype))
    images = data.splits.test.images[:3]
    target_classes = np.array([[0, 1], [2, 3], [4, 5]])
    with torch.inference_mode():
        cams = activation_maps(net, images, target_classes, LAYERS)
    for layer in LAYERS:
        expected = by_hand(net, images, target_classes, layer)
        # Some CPUs compute in bfloat16 itself, of 8 bits: there a sum depends on how many images are in the batch.
        atol, rtol = (3e-2 * max(1, expected.max()), 3e-2) if precision == "bf16-true" else (1e-4, 1e-4)
        np.testing.assert_allclose(cams[layer], expected, atol=atol, rtol=rtol)
    assert any(one.max() > 0 for one in cams.values())
    assert net.normalize.mean.dtype == torch.float32
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    assert not any(one._forward_hooks for one in module.modules())
    assert all((module.state_dict()[name] == value).all() for name, value in state.items())


def by_hand(net: ResNet18, images: np.ndarray, target_classes: np.ndarray, layer: str) -> np.ndarray:
    """Grad-CAM as its paper writes it, one image and class at a time, the network cut in two at the layer."""
    stages = list(net.backbone.named_children())
    cut = [name for name, _ in stages].index(layer) + 1
    maps = []
    for image, classes in zip(images, target_classes, strict=True):
        for label in classes:
            features = net.normalize(torch.from_numpy(image[None]))
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
    return np.stack(maps).reshape(*target_classes.shape, *maps[0].shape)


@pytest.mark.slow
def test_load_gives_what_the_training_left(fit: Callable[..., Path]) -> None:
    from cifar_lit.callbacks import report

    kept: list[RunResults] = []
    evaluate = report.evaluate_network
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "evaluate_network", lambda *a, **k: kept.append(evaluate(*a, **k)) or kept[0])
        run = fit(*QUICK, "--scores.flip_tta=true")
    loaded = RunResults.load(run)
    for name in ("name", "classes", "weights", "parameters", "fingerprints", "epochs", "provenance"):
        assert getattr(loaded, name) == getattr(kept[0], name)
    assert loaded.temperature == kept[0].temperature
    for name in ("test", "val", "train", "test_flip_tta"):
        one, other = getattr(kept[0], name), getattr(loaded, name)
        assert (one.indices == other.indices).all() and (one.labels == other.labels).all()
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=1e-6)
    assert (loaded.test_images.images == kept[0].test_images.images).all()
    for name, value in kept[0].network.state_dict().items():
        assert (loaded.network.state_dict()[name] == value).all()
    drawn = [drawing.to_array(figures.misclassified(results, k=4)) for results in (kept[0], loaded)]
    assert (drawn[0] == drawn[1]).all()
