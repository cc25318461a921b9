"""Training in two processes on this machine."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_lit import evaluate
from tests.conftest import QUICK

TWO = [*QUICK, "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=16"]


def fit(folder: Path, *args: str) -> Path:
    subprocess.run([sys.executable, "-m", "cifar_lit.fit", *TWO, *args], cwd=folder, check=True, timeout=300)
    (run,) = (folder / "lightning_logs" / "demo").iterdir()
    return run


def test_report_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifar_lit.fit import main

    monkeypatch.chdir(tmp_path)
    main([*QUICK, "--misclassified.k=7"])
    report = tmp_path / "lightning_logs" / "demo" / "version_0" / "report"
    report.rename(tmp_path / "expected")
    fit(tmp_path, "--misclassified.k=7", "--ckpt_path=last")
    for name in ("misclassified.csv", "metrics.json", "class_accuracy.csv", "predictions.csv"):
        assert (report / name).read_text() == (tmp_path / "expected" / name).read_text()


def test_training(tmp_path: Path) -> None:
    report = fit(tmp_path, "--data.val_size=513") / "report"  # one process validates one image more
    assert (report / "index.html").exists() and (report / "misclassified.png").exists()
    assert json.loads((report / "metrics.json").read_text())["test"]["images"] == 360
    with open(report / "history.csv", newline="", encoding="utf-8") as lines:
        (epoch,) = csv.DictReader(lines)
    assert float(epoch["lr"]) == pytest.approx(0.002 / 25 / 1e4)  # OneCycle ended, so its number of steps was correct


def test_reported_weights_are_the_saved_ones(tmp_path: Path) -> None:
    run = fit(tmp_path, "--data.val_size=0", "--lr_find=25", "--process_timeout=60")
    evaluate.main(["--ckpt_path", str(run)])
    for name in ("predictions.csv", "misclassified.csv"):
        assert (run / "evaluation_1" / name).read_text() == (run / "report" / name).read_text()
