"""Training in two processes on this machine."""

import csv
import json
from pathlib import Path
from typing import Any

import fork_server
import pytest
import torch
from comparison import BLANK

from cifar_lit import evaluate
from cifar_lit.models.classifier import ImageClassifier
from tests.conftest import BRIEF


def fit(folder: Path, *args: str) -> Path:
    run = fork_server.run([*BRIEF, *args, "--data.batch_size=16"], folder, processes=2, before=BLANK)
    assert run.wait(300) == 0, run.output
    (created,) = folder.glob("lightning_logs/demo/version_*")
    return created


def assert_report_is_that_of_one_process(run: Path) -> None:
    evaluate.main([str(run)])
    for name in ("predictions.csv", "misclassified.csv", "class_accuracy.csv"):
        assert (run / "evaluation_1" / name).read_text() == (run / "report" / name).read_text()
    assert scores_on_test(run / "evaluation_1") == scores_on_test(run / "report")


def scores_on_test(report: Path) -> Any:
    return json.loads((report / "metrics.json").read_text())["test"]


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_training(tmp_path: Path) -> None:
    run = fit(tmp_path, "--data.val_size=513")  # one process validates one image more
    assert (run / "report" / "index.html").exists() and (run / "report" / "misclassified.png").exists()
    assert scores_on_test(run / "report")["images"] == 360
    with open(run / "report" / "history.csv", newline="", encoding="utf-8") as lines:
        (epoch,) = csv.DictReader(lines)
    assert float(epoch["lr"]) == pytest.approx(0.002 / 25 / 1e4)  # OneCycle ended, so its number of steps was correct
    assert_report_is_that_of_one_process(run)


@pytest.mark.slow
def test_layers_that_were_frozen_are_trained_alike_in_all_processes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ImageClassifier(10, (0.3,) * 3, (0.4,) * 3, stem="imagenet", norm="layer")
    torch.save({"state_dict": module.state_dict()}, tmp_path / "initial.ckpt")
    options = [f"--model.weights={tmp_path}/initial.ckpt", "--model.norm=layer", "--model.freeze_epochs=1"]
    options += ["--trainer.max_epochs=2", "--data.crop_padding=0", "--data.rotate_degrees=0", "--data.cutout_size=0"]
    changes = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        batch = f"--data.batch_size={32 // processes}"
        run = fork_server.run([*BRIEF, *options, batch], folder, processes=processes, before=BLANK)
        assert run.wait(300) == 0, run.output
        (last,) = folder.glob("lightning_logs/demo/version_*/checkpoints/last.ckpt")
        after = torch.load(last, weights_only=True)["state_dict"]
        changes.append({name: after[name] - before for name, before in module.state_dict().items()})
    for name, change in changes[0].items():
        assert (changes[1][name] - change).norm() <= 0.01 * change.norm(), name
        assert change.norm() > 0 or "normalize" in name


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_training_on_all_images_at_a_found_learning_rate(tmp_path: Path) -> None:
    run = fit(tmp_path, "--data.val_size=0", "--lr_find=25", "--process_timeout=60")
    assert_report_is_that_of_one_process(run)
