"""Rows and lines of the epochs, and the progress bar."""

import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger

from cifar_lit.callbacks import history as history_module
from cifar_lit.callbacks.history import EpochHistory, three_digits
from cifar_lit.callbacks.progress import ProgressBar
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import Batch, ImageDataset, Key
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.metrics import NonFiniteGuard
from cifar_lit.report.epochs import EpochRow
from tests.conftest import Tiny

Train = Callable[..., list[EpochRow]]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    def run(
        *callbacks: Callback,
        ckpt_path: Path | None = None,
        augment_on: Any = "device",
        folder: Path = tmp_path,
        **options: Any,
    ) -> Any:
        torch.manual_seed(0)
        data = ImageDataModule(
            "digits", val_size=137, image_size=8, batch_size=130, num_workers=0, augment_on=augment_on, seed=0
        )
        module = ImageClassifier(10, data.mean, data.std)
        module.net = Tiny()
        history = EpochHistory()
        trainer = Trainer(
            accelerator="cpu",
            logger=CSVLogger(folder, "", ""),
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[history, *callbacks],
            **{"max_epochs": 2, "log_every_n_steps": 5, "enable_progress_bar": False, **options},
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return history.rows

    return run


@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_speed_of_every_epoch(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], augment_on: str
) -> None:
    rows = train(augment_on=augment_on)
    assert len(rows) == 2
    for row in rows:
        assert 0 < row.data_time_fraction <= 1
        assert 1300 / row.seconds < row.images_per_second < 1300 / 1e-4
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "log.txt").read_text().splitlines() == lines
    assert [line.split(",")[-1] for line in lines] == [f" data time {100 * r.data_time_fraction:.0f}%" for r in rows]
    with open(tmp_path / "metrics.csv", newline="") as file:
        logged = [row["train/images_per_second"] for row in csv.DictReader(file) if row["train/data_time_fraction"]]
    assert list(map(float, logged)) == pytest.approx([row.images_per_second for row in rows])


def test_data_time_includes_the_loader_and_causes_one_hint(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch = ImageDataset.__getitems__

    def slow(self: ImageDataset, keys: list[Key]) -> Batch:
        time.sleep(0.02 if self.augmentation else 0)
        return fetch(self, keys)

    monkeypatch.setattr(ImageDataset, "__getitems__", slow)
    monkeypatch.setattr(history_module, "MIN_HINT_S", 0.1)
    for row in train(augment_on="workers"):
        assert row.data_time_fraction > 0.1
        assert row.data_time_fraction * 1300 / row.images_per_second > 10 * 0.02  # seconds; a sleep is never shorter
    assert capsys.readouterr().out.count("--data.augment_on device") == 1


def test_validation_within_an_epoch_is_not_training_time(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageClassifier, "on_validation_epoch_start", lambda self: time.sleep(0.3))
    for row in train(val_check_interval=0.5):
        assert row.seconds - 1300 / row.images_per_second > 0.6  # two validations; a sleep is never shorter


def test_epochs_without_validation_have_no_validation_metrics(train: Train) -> None:
    rows = train(max_epochs=3, check_val_every_n_epoch=2)
    assert [row.val_loss is not None for row in rows] == [False, True, False]
    assert len({row.train_loss for row in rows}) == 3


class Stop(Callback):
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 13


@pytest.mark.parametrize(("options", "ends"), [({}, [9, 12]), ({"accumulate_grad_batches": 2, "max_steps": 6}, [4, 5])])
def test_metrics_of_an_epoch_that_ends_early_are_logged_once(
    train: Train, tmp_path: Path, options: dict[str, int], ends: list[int]
) -> None:
    first, second = train(Stop(), **options)
    assert first.train_loss and second.train_loss and first.train_loss != second.train_loss
    assert first.lr == second.lr == 0.1
    with open(tmp_path / "metrics.csv", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == ends  # the last steps of the epochs, from 0


class Save(Callback):
    def __init__(self, file: Path, step: int) -> None:
        self.file, self.step = file, step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        if self.step == 0 and trainer.current_epoch == 0 and not trainer.sanity_checking:
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("step", [0, 4, 17], ids=["after validation", "first epoch", "second epoch"])
def test_resumed_run_has_identical_rows(train: Train, tmp_path: Path, step: int) -> None:
    def without_times(rows: list[EpochRow]) -> list[EpochRow]:
        assert all(row.seconds > 0 and row.images_per_second > 0 for row in rows)
        return [replace(row, seconds=0, images_per_second=0, data_time_fraction=0) for row in rows]

    expected = train(Save(tmp_path / "saved.ckpt", step))
    resumed = train(ckpt_path=tmp_path / "saved.ckpt", folder=tmp_path / "again")
    assert without_times(resumed) == without_times(expected)


def test_progress_bar_is_empty_before_the_first_step() -> None:
    module = ImageClassifier(10, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.training = True
    assert ProgressBar().get_metrics(trainer, module) == {}


class Bars(ProgressBar):
    """Records title, position and length of the bar at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, int]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self._drawn_s = 0
        super().on_train_batch_end(*args)
        self.seen.append((self.train_progress_bar.desc, self.train_progress_bar.n, self.train_progress_bar.total))


def test_progress_bar_counts_epochs_from_1_and_has_its_length_also_in_a_resumed_epoch(
    train: Train, tmp_path: Path
) -> None:
    bars = Bars()
    rows = train(bars, Save(tmp_path / "saved.ckpt", 4), enable_progress_bar=True)
    expected = [(f"epoch {epoch}/2: ", step, 10) for epoch in (1, 2) for step in range(1, 11)]
    assert bars.seen == expected and [row.epoch for row in rows] == [1, 2]
    resumed = Bars()
    train(resumed, ckpt_path=tmp_path / "saved.ckpt", folder=tmp_path / "again", enable_progress_bar=True)
    assert resumed.seen == expected[4:]


class Losses(Callback):
    """Records the loss of each batch, and the number of checks, which wait for the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.losses: list[float] = []
        self.checks = 0
        check = NonFiniteGuard.check

        def counting(guard: NonFiniteGuard) -> None:
            self.checks += 1
            check(guard)

        monkeypatch.setattr(NonFiniteGuard, "check", counting)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(float(outputs["loss"]))


def test_steps_are_logged_at_the_checks_of_the_loss(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = train(losses := Losses(monkeypatch), log_every_n_steps=1)
    with open(tmp_path / "metrics.csv", newline="") as file:
        logged = list(csv.DictReader(file))
    steps = [row for row in logged if row["train/loss_step"]]
    assert [int(row["step"]) for row in steps] == [*range(20)]
    assert [float(row["train/loss_step"]) for row in steps] == pytest.approx(losses.losses)
    assert all(float(row["lr"]) == pytest.approx(0.1) for row in steps)
    mean = sum(float(row["train/accuracy_step"]) for row in steps[:10]) / 10  # of batches of equal size
    assert mean == pytest.approx(rows[0].train_accuracy)
    assert losses.checks == 2 * 3  # first and last batch of each epoch, and its end
    assert {row["epoch"] for row in logged} == {"1", "2"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (15.75, "15.8"), (162.4, "162"), (25612.0, "25,600"), (1.084e6, "1,080,000")],
)
def test_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text
