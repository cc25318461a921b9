"""Each schedule's learning rates, as a real Trainer steps them, against torch's own scheduler stepped by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.schedules import Schedule
from cifar_lit.utils.errors import UsageError

LR = 0.01
STEPS = 5  # an epoch


class Rates(Callback):
    """Notes the rate of each optimizer step, and the validation losses."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


def train(schedule: Schedule, folder: Path, ckpt_path: str | None = None, **options: Any) -> Rates:
    torch.manual_seed(0)
    data = ImageDataModule("digits", val_size=20, batch_size=4, num_workers=0, image_size=8, seed=0)
    module = ImageClassifier(
        10,
        (0.3, 0.3, 0.3),
        (0.4, 0.4, 0.4),
        stem="imagenet",
        norm="layer",
        optimizer=lambda p: SGD(p, lr=LR),
        schedule=schedule,
    )
    rates = Rates()
    trainer = Trainer(
        **{"max_epochs": 4, "limit_train_batches": STEPS, **options},
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[rates, ModelCheckpoint(folder, filename="{epoch}", auto_insert_metric_name=False, save_top_k=-1)],
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return rates


def by_hand(make: Any, steps: int, every: int = 1) -> list[float]:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return rates


def onecycle(total: int) -> Any:
    return lambda optimizer: OneCycleLR(optimizer, LR, total_steps=total, cycle_momentum=False)


CURVES = {
    "constant": (Schedule("constant"), lambda o: StepLR(o, 10**9), 1),
    "step": (Schedule("step", step_size=2, gamma=0.5), lambda o: StepLR(o, 2, 0.5), STEPS),
    "onecycle": (Schedule("onecycle"), onecycle(4 * STEPS), 1),
    "cosine": (Schedule("cosine", eta_min=1e-4), lambda o: CosineAnnealingLR(o, 4 * STEPS, 1e-4), 1),
}


@pytest.mark.parametrize("name", CURVES)
def test_curve_over_epochs_and_after_resumption(name: str, tmp_path: Path) -> None:
    schedule, make, every = CURVES[name]
    expected = by_hand(make, 4 * STEPS, every)
    assert train(schedule, tmp_path).rates == pytest.approx(expected)
    resumed = train(schedule, tmp_path / "again", ckpt_path=str(tmp_path / "1.ckpt"))
    assert resumed.rates == pytest.approx(expected[2 * STEPS :])


@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 2}, {"max_epochs": -1, "max_steps": 12}])
@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_total_under_accumulation_and_max_steps(name: str, options: dict[str, int], tmp_path: Path) -> None:
    steps = 12  # 4 epochs of ceil(5 / 2) steps
    make = onecycle(steps) if name == "onecycle" else lambda o: CosineAnnealingLR(o, steps)
    assert train(Schedule(name), tmp_path, **options).rates == pytest.approx(by_hand(make, steps))


def test_plateau_goes_by_the_validation_loss_and_misses_nothing_at_resumption(tmp_path: Path) -> None:
    schedule = Schedule("plateau", factor=0.5, patience=0)
    options = {"max_epochs": 6, "limit_train_batches": 1}
    whole = train(schedule, tmp_path, **options)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    expected = []
    for loss in whole.losses:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(loss)
    assert whole.rates == pytest.approx(expected)
    for epoch in range(5):
        resumed = train(schedule, tmp_path / "again", ckpt_path=str(tmp_path / f"{epoch}.ckpt"), **options)
        assert resumed.rates == pytest.approx(whole.rates[epoch + 1 :])
        assert resumed.losses == whole.losses[epoch + 1 :]


def test_plateau_really_reduces(tmp_path: Path) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    plateau = Schedule("plateau", factor=0.1, patience=1).per_validation(optimizer)
    assert plateau is not None
    for loss in (1.0, 1.0, 1.0):
        plateau.step(loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR / 10)


def test_plateau_without_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.schedule\.name=plateau"):
        train(Schedule("plateau"), tmp_path, limit_val_batches=0)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("pct_start", [0.1, 0.2, 0.25, 0.5])
def test_onecycle_can_be_of_few_steps(total: int, pct_start: float) -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = Schedule("onecycle", pct_start=pct_start).per_step(optimizer, total)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(total - 1):
        optimizer.step()
        schedule.step()
        rates += schedule.get_last_lr()
    assert all(0 < rate <= 0.1 for rate in rates)
    assert rates[-1] == pytest.approx(0.1 / 25 / 1e4)


def test_an_endless_onecycle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trainer\.max_epochs or trainer\.max_steps"):
        train(Schedule("onecycle"), tmp_path, max_epochs=-1)


@pytest.mark.parametrize("option", [{"step_size": 0}, {"gamma": 0.0}, {"pct_start": 1.0}, {"factor": 1.0}])
def test_values_out_of_range_are_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"model\.schedule\.{next(iter(option))} must be"):
        Schedule("step", **option)


def test_options_without_effect_are_named() -> None:
    assert Schedule("onecycle", step_size=3, pct_start=0.5).without_effect() == ["step_size"]
