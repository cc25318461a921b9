"""Resuming runs with `--ckpt_path`."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lit.fit import main
from tests.cli.refused import refused
from tests.conftest import QUICK

Fit = Callable[..., Path]
CONSTANT = [*QUICK, "--model.schedule.name=constant"]
EMA = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def weights(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in actual.items())


@pytest.mark.parametrize(
    ("part", "total"),
    [
        (["--trainer.max_epochs=1"], ["--trainer.max_epochs=2"]),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=3"], ["--trainer.max_epochs=-1", "--trainer.max_steps=6"]),
    ],
    ids=["epochs", "steps"],
)
def test_resumed_run_is_identical(part: list[str], total: list[str], fit: Fit) -> None:
    uninterrupted = fit(*CONSTANT, *total)
    fit(*CONSTANT, *part)
    resumed = fit(*CONSTANT, *total, "--ckpt_path=last")
    assert resumed.name == "version_1"
    assert "ckpt_path: null" in (resumed / "config.yaml").read_text()  # as the run was started
    assert "ckpt_path: last" in (resumed / "config_2.yaml").read_text() and (resumed / "provenance_2.json").exists()
    assert_same_weights(weights(resumed), weights(uninterrupted))
    for name in ("report/misclassified.csv", "report/metrics.json"):
        assert (resumed / name).read_text() == (uninterrupted / name).read_text()
    assert [row["epoch"] for row in rows(resumed / "report" / "history.csv")] == ["0", "1"]
    assert len((resumed / "log.txt").read_text().splitlines()) == 2
    for key in ("train/loss", "val/accuracy"):
        curves = [[row[key] for row in rows(run / "metrics.csv") if row[key]] for run in (resumed, uninterrupted)]
        assert curves[0] == curves[1] and len(curves[0]) == 2


@pytest.mark.parametrize("val_size", [100, 0])
def test_finished_run_creates_the_same_report_again(val_size: int, fit: Fit) -> None:
    options = [*QUICK, f"--data.val_size={val_size}", EMA]
    run = fit(*options)
    before = {name: (run / "report" / name).read_text() for name in ("predictions.csv", "metrics.json")}
    assert fit(*options, "--ckpt_path=last") == run
    assert before == {name: (run / "report" / name).read_text() for name in before}


def test_best_checkpoint_starts_a_new_run(fit: Fit) -> None:
    """It was saved between a validation and the end of its epoch."""
    options = [*CONSTANT, "--trainer.check_val_every_n_epoch=2"]
    first = fit(*options, "--trainer.max_epochs=2")
    second = fit(*options, "--trainer.max_epochs=3", "--ckpt_path=best")
    assert (first.name, second.name) == ("version_0", "version_1")
    earlier, later = (rows(run / "report" / "history.csv") for run in (first, second))
    assert [row["epoch"] for row in later] == ["0", "1", "2"]
    for name in ("lr", "train_loss", "val_accuracy"):
        before = [float(row[name] or "nan") for row in earlier]
        assert [float(row[name] or "nan") for row in later[:2]] == pytest.approx(before, nan_ok=True)


def test_early_stopped_run_is_finished(fit: Fit, tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        "trainer:\n  callbacks:\n    - class_path: pytorch_lightning.callbacks.EarlyStopping\n"
        "      init_args: {monitor: val/accuracy, mode: max, patience: 0, min_delta: 1.0}\n"
    )
    options = [*CONSTANT, "--config", str(extra), "--trainer.max_epochs=9"]
    run = fit(*options)
    assert len(rows(run / "report" / "history.csv")) == 2  # stopped after one epoch without improvement
    checkpoint = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert fit(*options, "--ckpt_path=last") == run
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == checkpoint
    assert (run / "report" / "misclassified.png").exists()


def test_run_without_checkpoint_restarts_from_its_first_one(fit: Fit) -> None:
    fit(*CONSTANT, "--seed_everything=5")
    options = [*CONSTANT, "--trainer.max_epochs=2"]
    run = fit(*options, "--ckpt_path=best")
    before = weights(run)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "report")
    assert fit(*options, "--ckpt_path=last") == run
    assert_same_weights(weights(run), before)


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_schedule_cannot_be_extended(name: str, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*QUICK, f"--model.schedule.name={name}"]
    run = fit(*options)
    for checkpoint in ("best", str(run)):
        message = refused(capsys, main, *options, "--trainer.max_epochs=2", "--ckpt_path", checkpoint)
        assert f"model.schedule.name={name}" in message and "3 steps" in message and "6" in message
    assert [folder.name for folder in run.parent.iterdir()] == ["version_0"]


def test_other_data_are_refused(fit: Fit, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = fit(*QUICK)
    before = sorted(tmp_path.iterdir())
    message = refused(capsys, main, *QUICK, "--ckpt_path=last", "--data.source=cifar10")
    assert "data.source=cifar10" in message and "data.source=digits" in message and sorted(tmp_path.iterdir()) == before
    assert "trained on other images" in refused(capsys, main, *QUICK, "--ckpt_path=last", "--data.image_size=24")
    assert [folder.name for folder in run.parent.iterdir()] == ["version_0"]
