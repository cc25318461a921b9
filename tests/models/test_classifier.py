import shutil
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.resnet import Normalize
from tests.conftest import Tiny


def train(folder: Path, compile: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    data = ImageDataModule("digits", val_size=137, image_size=8, batch_size=650, augment_on="device", seed=0)
    module = ImageClassifier(10, data.mean, data.std, compile=compile)
    module.net = Tiny()
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, default_root_dir=folder, **options)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "one.ckpt", weights_only=True)
    return torch.load(folder / "one.ckpt", weights_only=True)["state_dict"]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize(("unit", "warning"), [("AMX", "takes a minute or so, .* 2 steps"), (None, "without AMX")])
def test_a_compiled_network_trains_alike_and_says_where_it_does_not_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str | None, warning: str
) -> None:
    monkeypatch.setattr("cifar_lit.models.classifier.bfloat16_unit", lambda: unit)
    plain = train(tmp_path, compile=False)
    with pytest.warns(UserWarning, match=rf"model\.compile .*{warning}"):
        compiled = train(tmp_path, compile=True)
    assert list(compiled) == list(plain)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)


def test_a_step_that_overflowed_in_float16_leaves_nothing_behind() -> None:
    module = ImageClassifier(
        10, (0.5,) * 3, (0.3,) * 3, optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)
    )
    optimizer = module.configure_optimizers()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    assert not optimizer.state  # in which a momentum would be
    assert all(torch.equal(one, other) for one, other in zip(module.parameters(), before, strict=True))


def test_scores_are_exact_in_half_precision_too() -> None:
    module = ImageClassifier(10, (0.5,) * 3, (0.3,) * 3).to(torch.bfloat16)
    logits, labels = torch.eye(10, dtype=torch.bfloat16)[:4], torch.arange(4)
    for _ in range(3000):
        module.train_scores.update(torch.tensor(1.25, dtype=torch.bfloat16), logits, labels)
    assert module.train_scores.compute() == {"loss": 1.25, "accuracy": 1.0}
    module.train_scores.reset()
    module.train_scores.update(torch.tensor(1.25, dtype=torch.bfloat16), logits, labels)
    assert module.train_scores.compute()["loss"] == 1.25


def test_gradients_are_clipped_in_mixed_precision_too(tmp_path: Path) -> None:
    data = ImageDataModule("digits", val_size=0, image_size=8, batch_size=300, augment_on="device", seed=0)
    module = ImageClassifier(
        10, data.mean, data.std, optimizer=lambda params: torch.optim.SGD(params, lr=1.0, fused=True)
    )
    module.net = Tiny()
    before = torch.cat([parameter.detach().flatten() for parameter in module.net.parameters()]).clone()
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "max_steps": 2}
    options |= {"precision": "bf16-mixed", "gradient_clip_val": 1e-3, "enable_checkpointing": False}
    Trainer(accelerator="cpu", default_root_dir=tmp_path, **options).fit(module, datamodule=data)
    after = torch.cat([parameter.detach().flatten() for parameter in module.net.parameters()])
    assert 0 < (after - before).norm() <= 2.01e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_ends_alike_wherever_its_images_are_augmented(tmp_path: Path, seed: int) -> None:
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
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=6,
            deterministic=True,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        )
        trainer.fit(module, datamodule=data)
        accuracy[augment_on] = trainer.test(module, datamodule=data, verbose=False)[0]["test/accuracy"]
    assert min(accuracy.values()) > 0.75  # both have learnt
    assert abs(accuracy["workers"] - accuracy["device"]) < 0.06  # 2.5 standard deviations of 360 images
