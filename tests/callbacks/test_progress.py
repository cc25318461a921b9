"""What is said of a training's speed."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger

from cifar_lit.callbacks import history as screen
from cifar_lit.callbacks.progress import ProgressBar
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import Batch, ImageDataset, Key
from cifar_lit.models.classifier import ImageClassifier
from tests.conftest import Tiny


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., screen.EpochHistory]:
    def run(trainer_options: dict[str, Any] | None = None, **options: Any) -> screen.EpochHistory:
        data = ImageDataModule("digits", val_size=137, image_size=8, batch_size=130, num_workers=0, **options)
        module = ImageClassifier(10, data.mean, data.std)
        module.net = Tiny()
        history = screen.EpochHistory()
        trainer = Trainer(
            accelerator="cpu",
            logger=CSVLogger(tmp_path, "", ""),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"max_epochs": 2, "callbacks": [history], **(trainer_options or {})},
        )
        trainer.fit(module, datamodule=data)
        return history

    return run


@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_every_epoch_tells_its_speed(
    train: Callable[..., screen.EpochHistory], tmp_path: Path, capsys: pytest.CaptureFixture[str], augment_on: str
) -> None:
    rows = train(augment_on=augment_on).rows
    assert len(rows) == 2
    for row in rows:
        assert 0 < row["train/data_time_fraction"] <= 1
        assert 1300 / row["seconds"] < row["train/images_per_second"] < 1300 / 1e-4
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.endswith("waiting for data") for line in lines)
    with open(tmp_path / "metrics.csv", newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["train/data_time_fraction"]]
    assert [float(row["train/images_per_second"]) for row in logged] == pytest.approx(
        [row["train/images_per_second"] for row in rows]
    )


def test_waiting_is_what_the_loader_takes_and_hinted_at_once(
    train: Callable[..., screen.EpochHistory], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch = ImageDataset.__getitems__

    def slow(self: ImageDataset, keys: list[Key]) -> Batch:
        time.sleep(0.02 if self.augmentation else 0)
        return fetch(self, keys)

    monkeypatch.setattr(ImageDataset, "__getitems__", slow)
    monkeypatch.setattr(screen, "WORTH_A_HINT", 0.1)
    first, second = train(augment_on="workers").rows
    for row in (first, second):
        assert row["train/data_time_fraction"] > 0.1
        assert (
            row["train/data_time_fraction"] * 1300 / row["train/images_per_second"] > 10 * 0.02
        )  # seconds; a sleep is no shorter
    said = capsys.readouterr().out
    assert said.count("--data.augment_on device") == 1


def test_validation_in_the_middle_of_an_epoch_is_no_training(
    train: Callable[..., screen.EpochHistory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageClassifier, "on_validation_epoch_start", lambda self: time.sleep(0.3))
    for row in train({"val_check_interval": 0.5}).rows:
        assert row["seconds"] - 1300 / row["train/images_per_second"] > 0.6  # twice; a sleep is no shorter


def test_no_figure_is_told_twice(train: Callable[..., screen.EpochHistory]) -> None:
    rows = train({"max_epochs": 3, "check_val_every_n_epoch": 2}).rows
    assert ["val/loss" in row for row in rows] == [False, True, False]
    assert len({row["train/loss"] for row in rows}) == 3


class Stop(Callback):
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 13


@pytest.mark.parametrize(("options", "ends"), [({}, [9, 12]), ({"accumulate_grad_batches": 2, "max_steps": 6}, [4, 5])])
def test_an_epoch_that_ends_early_has_its_figures_once(
    train: Callable[..., screen.EpochHistory], tmp_path: Path, options: dict[str, int], ends: list[int]
) -> None:
    history = screen.EpochHistory()
    train({"callbacks": [history, Stop()], **options})
    first, second = history.rows
    for name in ("train/loss", "train/accuracy", "lr"):
        assert first[name] and second[name]
    assert first["train/loss"] != second["train/loss"]
    with open(tmp_path / "metrics.csv", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == ends  # the epochs' last steps, from 0


def test_the_bar_has_figures_only_of_what_was_counted() -> None:
    module = ImageClassifier(10, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.training = True
    assert ProgressBar().get_metrics(trainer, module) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (15.75, "15.8"), (162.4, "162"), (25612.0, "25,600"), (1.084e6, "1,080,000")],
)
def test_speeds_have_threefigures(value: float, text: str) -> None:
    assert screen.figures(value) == text
