"""Training in two processes on this machine."""

import csv
import json
import shutil
from pathlib import Path

import fork_server
import pytest

from cifar_lit import evaluate
from tests.conftest import BRIEF, QUICK, copy_run


def fit(folder: Path, *args: str) -> Path:
    run = fork_server.run([*args, "--data.batch_size=16"], folder, processes=2)
    assert run.wait(300) == 0, run.output
    (created,) = folder.glob("lightning_logs/demo/version_*")
    return created


@pytest.mark.slow
def test_report_is_that_of_one_process(finished_run: Path, tmp_path: Path) -> None:
    run = copy_run(finished_run, tmp_path)
    shutil.rmtree(run / "report")
    fit(tmp_path, *QUICK, "--ckpt_path=last")
    for name in ("misclassified.csv", "metrics.json", "class_accuracy.csv", "predictions.csv"):
        assert (run / "report" / name).read_text() == (finished_run / "report" / name).read_text()


def test_training(tmp_path: Path) -> None:
    report = fit(tmp_path, *BRIEF, "--data.val_size=513") / "report"  # one process validates one image more
    assert (report / "index.html").exists() and (report / "misclassified.png").exists()
    assert json.loads((report / "metrics.json").read_text())["test"]["images"] == 360
    with open(report / "history.csv", newline="", encoding="utf-8") as lines:
        (epoch,) = csv.DictReader(lines)
    assert float(epoch["lr"]) == pytest.approx(0.002 / 25 / 1e4)  # OneCycle ended, so its number of steps was correct


@pytest.mark.slow
def test_reported_weights_are_the_saved_ones(tmp_path: Path) -> None:
    run = fit(tmp_path, *BRIEF, "--data.val_size=0", "--lr_find=25", "--process_timeout=60")
    evaluate.main(["--ckpt_path", str(run)])
    for name in ("predictions.csv", "misclassified.csv"):
        assert (run / "evaluation_1" / name).read_text() == (run / "report" / name).read_text()
