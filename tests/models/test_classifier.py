import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.metrics import EpochMetrics, NonFiniteGuard
from cifar_lit.models.resnet import Normalize
from cifar_lit.utils.errors import RunError
from tests.conftest import QUIET_TRAINER, Tiny

QUIET = {**QUIET_TRAINER, "enable_checkpointing": False}


def train(batch_size: int = 300, trainer: dict[str, Any] | None = None, **options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    data = ImageDataModule("digits", val_size=137, image_size=8, batch_size=batch_size, augment_on="device", seed=0)
    module = ImageClassifier(10, data.mean, data.std, **options)
    module.net = Tiny()
    Trainer(**{"max_epochs": 1, **QUIET, **(trainer or {})}).fit(module, datamodule=data)
    return module


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize(("unit", "warning"), [("AMX", "takes a minute or so, .* 2 steps"), (None, "without AMX")])
def test_compiled_network_trains_to_the_same_weights_and_warns_if_slower(
    monkeypatch: pytest.MonkeyPatch, unit: str | None, warning: str
) -> None:
    monkeypatch.setattr("cifar_lit.models.compilation.bfloat16_unit", lambda: unit)
    expected = train(650).state_dict()
    with pytest.warns(UserWarning, match=rf"model\.compile .*{warning}"):
        compiled = train(650, compile=True).state_dict()
    assert list(compiled) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)


def sgd(fused: bool, **options: float) -> Any:
    return lambda params: torch.optim.SGD(params, **options, fused=fused)


@pytest.mark.parametrize("clip", [None, 1e-2])
def test_fused_sgd_equals_plain_sgd_in_float16_after_an_overflow(clip: float | None) -> None:
    weights = []
    for fused in (True, False):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        options = {"plugins": MixedPrecision("16-mixed", "cpu", scaler), "gradient_clip_val": clip}
        module = train(trainer=options, optimizer=sgd(fused, lr=1e-3, momentum=0.9))
        assert scaler.get_scale() == 2.0**9  # the first step overflowed
        weights.append(module.net.last.weight)
    torch.testing.assert_close(*weights)


def test_gradients_of_fused_optimizers_are_clipped_in_mixed_precision() -> None:
    options = {"precision": "bf16-mixed", "gradient_clip_val": 1e-3}
    before, after = (
        train(trainer={**options, "max_steps": steps}, optimizer=sgd(True, lr=1.0)).net.last.weight for steps in (1, 3)
    )
    assert 0 < (after - before).norm() <= 2.01e-3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_predict_returns_the_probabilities_of_the_test_images(precision: str) -> None:
    module = train(optimizer=sgd(False, lr=1e-4))
    data = ImageDataModule("digits", val_size=137, image_size=8, batch_size=256)
    batches = Trainer(precision=precision, **QUIET).predict(module, datamodule=data)
    probabilities = torch.cat(batches)
    assert len(batches) == 2 and probabilities.shape == (360, 10) and probabilities.dtype == torch.float32
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(data.splits.test.images)).softmax(1)
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-6 if precision == "32-true" else 0.1)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(360))


def test_epoch_metrics_are_exact_in_half_precision() -> None:
    metrics = ImageClassifier(10, (0.5,) * 3, (0.3,) * 3).to(torch.bfloat16).train_metrics
    for _ in range(3000):
        metrics.update(torch.tensor(5.0), torch.tensor(4), 4)
    assert metrics.compute() == {"loss": 1.25, "accuracy": 1.0}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_accuracy_does_not_depend_on_where_images_are_augmented(tmp_path: Path, seed: int) -> None:
    accuracy = {}
    for augment_on in ("workers", "device"):
        torch.manual_seed(seed)
        data = ImageDataModule(
            "digits",
            image_size=16,
            val_size=0,
            batch_size=64,
            augment_on=augment_on,
            num_workers=0,
            crop_padding=2,
            flip=0.0,
            rotate_degrees=15.0,
            cutout_size=6,
            seed=seed,
        )
        module = ImageClassifier(10, data.mean, data.std, optimizer=lambda params: torch.optim.Adam(params, lr=3e-3))
        module.net = nn.Sequential(Normalize(data.mean, data.std), nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
        trainer = Trainer(max_epochs=6, default_root_dir=tmp_path, **QUIET)
        trainer.fit(module, datamodule=data)
        accuracy[augment_on] = trainer.test(module, datamodule=data, verbose=False)[0]["test/accuracy"]
    assert min(accuracy.values()) > 0.75
    assert abs(accuracy["workers"] - accuracy["device"]) < 0.06  # 2.5 standard deviations of 360 images


@pytest.mark.parametrize(("step", "cause"), [(0, r"data\.root.*model\.weights"), (1, r"Lower the optimizer's lr")])
def test_loss_that_is_not_finite_at_the_first_step_is_not_attributed_to_the_learning_rate(
    step: int, cause: str
) -> None:
    guard = NonFiniteGuard()
    for current in range(3):
        guard.watch(torch.tensor(float("nan") if current >= step else 1.0), current, 0.1)
    with pytest.raises(RunError, match=cause) as error:
        guard.check()
    assert ("lr" in str(error.value)) == (step > 0)


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path: Path) -> None:
    """In any Trainer: this one has Lightning's own plugin for checkpoints."""
    module = train()
    trainer, file = module.trainer, tmp_path / "last.ckpt"
    trainer.save_checkpoint(file)
    saved = file.read_bytes()
    with torch.no_grad():
        module.net.last.weight[0, 0] = torch.inf
    with pytest.raises(RunError, match=f"not finite after step {trainer.global_step - 1}: training diverged"):
        trainer.save_checkpoint(file)
    assert file.read_bytes() == saved


def test_metrics_can_be_used_again_after_trainer_validate() -> None:
    metrics = EpochMetrics()
    with torch.inference_mode():
        metrics.update(1.0, torch.tensor(1), 2)
        metrics.reset()
    metrics.update(3.0, torch.tensor(1), 2)
    assert (float(metrics.compute()["loss"]), float(metrics.compute()["accuracy"])) == (1.5, 0.5)


def test_frozen_parameters_stay_frozen_when_a_run_is_resumed() -> None:
    saved, resumed = (ImageClassifier(10, (0.5,) * 3, (0.5,) * 3, stem="imagenet") for _ in range(2))
    saved.net.backbone.conv1.requires_grad_(False)
    resumed.net.backbone.requires_grad_(False)  # as BaseFinetuning freezes it before each training
    checkpoint: dict[str, Any] = {"state_dict": saved.state_dict()}
    saved.on_save_checkpoint(checkpoint)
    resumed.on_load_checkpoint(checkpoint)
    assert [p.requires_grad for p in resumed.parameters()] == [p.requires_grad for p in saved.parameters()]
