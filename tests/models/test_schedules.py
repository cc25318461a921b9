"""Learning rates of each schedule in a Trainer, compared with torch's scheduler stepped by hand."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.schedules import SCHEDULES, Name, Schedule
from cifar_lit.utils.errors import UsageError
from tests.conftest import SaveEpochs, Tiny

LR = 0.01
STEPS = 5  # per epoch


class Recorder(Callback):
    """Records the learning rate of each optimizer step, and the validation losses."""

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.lrs.append(optimizer.param_groups[0]["lr"])

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


def train(
    schedule: Schedule, folder: Path, ckpt_path: str | None = None, callbacks: Sequence[Callback] = (), **options: Any
) -> Recorder:
    torch.manual_seed(0)
    data = ImageDataModule("digits", val_size=20, batch_size=4, num_workers=0, image_size=8, seed=0)
    module = ImageClassifier(10, data.mean, data.std, optimizer=lambda p: SGD(p, lr=LR), schedule=schedule)
    module.net = Tiny()
    recorder = Recorder()
    trainer = Trainer(
        **{"max_epochs": 4, "limit_train_batches": STEPS, **options},
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[recorder, SaveEpochs(folder), *callbacks],
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return recorder


def by_hand(make: Any, steps: int, every: int = 1) -> list[float]:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer)
    lrs = []
    for step in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return lrs


def onecycle(total: int) -> Any:
    return lambda optimizer: OneCycleLR(optimizer, LR, total_steps=total, cycle_momentum=False)


def plateau(losses: list[float]) -> list[float]:
    """Return the learning rate before each validation."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    lrs = []
    for loss in losses:
        lrs.append(optimizer.param_groups[0]["lr"])
        scheduler.step(loss)
    return lrs


CURVES = {
    "constant": (Schedule("constant"), lambda o: StepLR(o, 10**9), 1),
    "step": (Schedule("step", step_size=2, gamma=0.5), lambda o: StepLR(o, 2, 0.5), STEPS),
    "onecycle": (Schedule("onecycle"), onecycle(4 * STEPS), 1),
    "cosine": (Schedule("cosine", eta_min=1e-4), lambda o: CosineAnnealingLR(o, 4 * STEPS, 1e-4), 1),
}


def test_every_schedule_is_tested() -> None:
    assert {*CURVES, "plateau"} == set(SCHEDULES)


@pytest.mark.parametrize("name", [name for name, entry in SCHEDULES.items() if entry.interval == "step"])
def test_another_length_than_planned_is_refused(name: str, tmp_path: Path) -> None:
    train(CURVES[name][0], tmp_path)
    for change in ({"max_epochs": 6}, {"max_epochs": 3}, {"accumulate_grad_batches": 2}, {"limit_train_batches": 4}):
        with pytest.raises(UsageError, match="was planned for 20 steps"):
            train(CURVES[name][0], tmp_path / "again", ckpt_path=str(tmp_path / "1.ckpt"), **change)


@pytest.mark.parametrize("name", CURVES)
def test_learning_rates_of_complete_and_resumed_trainings(name: str, tmp_path: Path) -> None:
    schedule, make, every = CURVES[name]
    expected = by_hand(make, 4 * STEPS, every)
    assert train(schedule, tmp_path).lrs == pytest.approx(expected)
    resumed = train(schedule, tmp_path / "again", ckpt_path=str(tmp_path / "1.ckpt"))
    assert resumed.lrs == pytest.approx(expected[2 * STEPS :])


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 12},
        {"callbacks": [GradientAccumulationScheduler({0: 1, 2: 5})]},  # 5 + 5 + 1 + 1
        {"callbacks": [GradientAccumulationScheduler({1: 2})], "max_steps": 12},
    ],
)
@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_total_steps_with_accumulation_and_max_steps(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    steps = 12  # 4 epochs of ceil(5 / 2) steps
    make = onecycle(steps) if name == "onecycle" else lambda o: CosineAnnealingLR(o, steps)
    assert train(Schedule(name), tmp_path, **options).lrs == pytest.approx(by_hand(make, steps))


def test_plateau_follows_the_validation_loss_also_when_resumed(tmp_path: Path) -> None:
    schedule = Schedule("plateau", factor=0.5, patience=0)
    options = {"max_epochs": 6, "limit_train_batches": 1}
    complete = train(schedule, tmp_path, **options)
    expected = plateau(complete.losses)
    assert complete.lrs == pytest.approx(expected) and len(set(expected)) > 1
    for epoch in range(5):
        resumed = train(schedule, tmp_path / "again", ckpt_path=str(tmp_path / f"{epoch}.ckpt"), **options)
        assert resumed.lrs == pytest.approx(complete.lrs[epoch + 1 :])
        assert resumed.losses == complete.losses[epoch + 1 :]


def test_plateau_follows_a_validation_every_second_epoch(tmp_path: Path) -> None:
    options = {"max_epochs": 12, "check_val_every_n_epoch": 2, "limit_train_batches": 1}
    trained = train(Schedule("plateau", factor=0.5, patience=0), tmp_path, **options)
    assert len(trained.losses) == 6
    assert trained.lrs == pytest.approx([lr for lr in plateau(trained.losses) for _ in range(2)])


@pytest.mark.parametrize("every", [1, 2])
def test_plateau_needs_a_validation(every: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.schedule\.name=plateau"):
        train(Schedule("plateau"), tmp_path, limit_val_batches=0, check_val_every_n_epoch=every)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("pct_start", [0.1, 0.2, 0.25, 0.5])
def test_onecycle_of_few_steps(total: int, pct_start: float) -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = Schedule("onecycle", pct_start=pct_start).build(optimizer, lambda: total)
    lrs = schedule.get_last_lr()
    for _ in range(total - 1):
        optimizer.step()
        schedule.step()
        lrs += schedule.get_last_lr()
    assert all(0 < lr <= 0.1 for lr in lrs)
    assert lrs[-1] == pytest.approx(0.1 / 25 / 1e4)


class Stop(Callback):
    """Ends the training as Trainer.max_time and EarlyStopping do."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 1


@pytest.mark.parametrize("name", CURVES)
def test_warning_if_the_training_ends_before_its_schedule(
    name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    def warned() -> bool:
        return any("ends after 10 of the 20 steps" in str(warning.message) for warning in recwarn.list)

    train(CURVES[name][0], tmp_path)
    assert not warned()
    train(CURVES[name][0], tmp_path / "again", callbacks=[Stop()])
    assert warned() == (name in ("onecycle", "cosine"))


def test_onecycle_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trainer\.max_epochs or trainer\.max_steps"):
        train(Schedule("onecycle"), tmp_path, max_epochs=-1)


@pytest.mark.parametrize("option", [{"step_size": 0}, {"gamma": 0.0}, {"pct_start": 1.0}, {"factor": 1.0}])
def test_values_out_of_range_raise_usage_errors(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"model\.schedule\.{next(iter(option))} must be"):
        Schedule("step", **option)


def test_options_without_effect_cause_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"model\.schedule\.gamma has no effect") as caught:
        train(Schedule("constant", gamma=0.5), tmp_path, max_epochs=1)
    assert not [w for w in caught if "step_size" in str(w.message)]


def test_every_schedule_is_listed_and_uses_existing_options() -> None:
    assert set(SCHEDULES) == set(get_args(Name))
    for name in SCHEDULES:
        assert set(SCHEDULES[name].options) < {field.name for field in fields(Schedule)}
