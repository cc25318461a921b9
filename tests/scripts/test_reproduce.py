"""scripts/reproduce: real trainings of seconds, the tables they leave, and going on after an interruption."""

import json
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cifar_lit.fit import main as fit
from tests.conftest import CONFIGS, ROOT

sys.path.insert(0, str(ROOT / "scripts" / "reproductions"))

from ablations import CHANGES, SPLIT
from results import Record, keep, write
from training import Training, finished

PROGRAM = [sys.executable, str(ROOT / "scripts" / "reproductions")]
SHORT = [
    *("--data.source", "digits", "--data.image_size", "8", "--data.num_workers", "0", "--data.crop_padding", "1"),
    *("--model.stem", "imagenet", "--trainer.limit_train_batches", "2", "--trainer.limit_test_batches", "2"),
    *("--page.num_cams", "0", "--page.num_road", "0", "--projector.num_images", "0", "--data.cutout_size", "2"),
]


def reproduce(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*PROGRAM, *args], cwd=folder, capture_output=True, text=True)


def records(folder: Path) -> list[Record]:
    found: list[Record] = json.loads((folder / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two seeds of a recipe were trained."""
    folder = tmp_path_factory.mktemp("reproduced")
    made = reproduce(folder, "baseline", "--seeds", "2", "--epochs", "1", "--data", "digits", "--", *SHORT)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def test_the_row_is_what_the_runs_reached(done: Path) -> None:
    reached = [
        json.loads((done / "lightning_logs" / "baseline" / f"version_{seed}" / "report" / "metrics.json").read_text())
        for seed in range(2)
    ]
    plain, averaged = ([100 * one[split]["accuracy"] for one in reached] for split in ("test", "test_flip_tta"))
    text = (done / "RESULTS.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| 1 ")]
    assert "| digits |" in row and "| **1 of 26** | 2 |" in row and "`baseline`" in row
    assert f"| {statistics.mean(plain):.2f} ± {statistics.stdev(plain):.2f} %" in row
    assert f"| {statistics.mean(averaged):.2f} ± {statistics.stdev(averaged):.2f} %" in row
    first, second = records(done)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["fingerprints"] == reached[0]["fingerprints"] and first["seconds_in_all"] > 0
    assert first["hardware"] in text and first["precision"] in text and first["versions"]["torch"] in text
    assert all(commit[:7] in text for commit in first["commits"])


def test_what_is_done_is_not_done_again_and_words_around_the_tables_stay(done: Path) -> None:
    runs = {file: file.stat().st_mtime_ns for file in done.rglob("lightning_logs/**/*") if file.is_file()}
    before = records(done)
    text = (done / "RESULTS.md").read_text()
    (done / "RESULTS.md").write_text(text.replace("# Results\n", "# Results\n\nSome words.\n"))
    again = reproduce(done, "baseline", "--seeds", "2", "--epochs", "1", "--data", "digits", "--", *SHORT)
    assert again.returncode == 0, again.stderr
    assert "baseline, seed 0, kept: test accuracy" in again.stdout
    assert runs == {file: file.stat().st_mtime_ns for file in done.rglob("lightning_logs/**/*") if file.is_file()}
    assert records(done) == before
    assert (done / "RESULTS.md").read_text() == text.replace("# Results\n", "# Results\n\nSome words.\n")


def test_the_time_of_an_interrupted_training_is_that_of_its_epochs(done: Path, tmp_path: Path) -> None:
    interrupted = {**records(done)[0], "seconds_in_all": None, "seconds_of_training": 7200.0}
    write(tmp_path / "RESULTS.md", [interrupted])
    assert "| 120 min, epochs alone |" in (tmp_path / "RESULTS.md").read_text()


def test_only_the_same_training_counts(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    training = Training(CONFIGS / "baseline.yaml", 1, 1, tuple(SHORT))
    assert training.begun() == Path("lightning_logs/baseline/version_1")
    assert finished(training.begun())
    assert not finished(None)
    for other in (replace(training, seed=2), replace(training, epochs=2), replace(training, options=())):
        assert other.begun() is None
    text = (CONFIGS / "baseline.yaml").read_text()
    assert "momentum: 0.9" in text
    configs = done / "configs"  # a recipe that was changed since
    configs.mkdir()
    notes = json.loads((done / "lightning_logs/baseline/version_1/provenance.json").read_text())
    for momentum, found in (("0.8", False), ("0.9", True)):
        (configs / "baseline.yaml").write_text(text.replace("momentum: 0.9", f"momentum: {momentum}"))
        mine = replace(training, recipe=configs / "baseline.yaml")
        command = " ".join(["python -m cifar_lit.fit", *mine.args])
        Path("lightning_logs/baseline/version_1/provenance.json").write_text(json.dumps({**notes, "command": command}))
        assert (mine.begun() is not None) == found
    Path("lightning_logs/baseline/version_1/provenance.json").write_text(json.dumps(notes))


def test_an_interrupted_training_is_gone_on_with(tmp_path: Path) -> None:
    args = ["onecycle", "--epochs", "300", "--", *SHORT, "--data.val_size", "100"]
    process = subprocess.Popen(
        [*PROGRAM, *args], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    while "epoch 2/" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "the same command goes on" in said
    assert not (tmp_path / "results.json").exists()
    run = tmp_path / "lightning_logs" / "onecycle" / "version_0"
    config = run / "config.yaml"
    assert yaml.safe_load(config.read_text())["trainer"]["max_epochs"] == 300
    process = subprocess.Popen(
        [*PROGRAM, *args], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    said = ""
    end = time.monotonic() + 120
    while "epoch " not in said.partition("going on with")[2]:
        said += process.stdout.readline()
        assert time.monotonic() < end and process.poll() is None, said
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert [path.name for path in run.parent.iterdir() if path.is_dir()] == ["version_0"]
    assert len(list(run.glob("provenance*.json"))) == 2


def test_a_failing_training_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    options = [*SHORT, "--model.optimizer.init_args.lr", "1e30"]
    made = reproduce(tmp_path, "baseline", "--epochs", "2", "--", *options)
    assert made.returncode == 1
    assert "without a result, for the reasons above" in made.stderr and "baseline, seed 0" in made.stderr
    assert not (tmp_path / "RESULTS.md").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give recipes, of baseline, best"),
        (["bestest"], "no recipe bestest; there are baseline"),
        (["best", "--seeds", "0"], "--seeds must be 1 or more, got 0"),
        (["best", "--all"], "give recipes, of baseline, best, best_40, imagenet_stem"),
        (["best", "--data.source", "digits"], "options of fit go after --"),
        (["best", "--", "--trainer.max_epochs", "3"], "--epochs shortens the training"),
        (["best", "--", "--seed_everything=3"], "--seeds N trains with the seeds 0 to N - 1"),
        (["best", "--out", "nowhere"], "--out nowhere: there is no such folder"),
        (["best", "--", "--data.flipp", "1"], "data.flipp"),
    ],
)
def test_usage(args: list[str], words: str, tmp_path: Path) -> None:
    made = reproduce(tmp_path, *args)
    assert made.returncode == 2
    assert words in made.stderr and "Traceback" not in made.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_one_that_fit_understands(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    best = CONFIGS / "best.yaml"
    with pytest.raises(SystemExit, match="0"):
        fit(["--config", str(best), *SPLIT, *CHANGES[change], "--print_config"])
    with_it = capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        fit(["--config", str(best), *SPLIT, "--print_config"])
    assert (capsys.readouterr().out == with_it) == (not CHANGES[change])


def test_a_file_without_a_place_for_the_tables_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "RESULTS.md").write_text("# Mine\n")
    made = reproduce(tmp_path, "configs/best.yaml", "--epochs", "1", "--", *SHORT)
    assert made.returncode == 2
    assert "has no lines <!-- results --> and <!-- /results -->" in made.stderr and "--out" in made.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["RESULTS.md"]


def test_what_was_tried_is_told_by_its_validation_accuracy(done: Path, tmp_path: Path) -> None:
    (one, _) = records(done)
    for key in ("test_accuracy", "test_accuracy_flip_tta", "weights"):
        del one[key]
    tried = {**one, "change": "no cutout", "val_accuracy": 0.8125, "options": "--data.val_size 5000"}
    write(tmp_path / "RESULTS.md", keep(tmp_path / "results.json", tried))
    better = {**tried, "seed": 1, "val_accuracy": 0.8325}
    write(tmp_path / "RESULTS.md", keep(tmp_path / "results.json", better))
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| `baseline` | no cutout | digits | **1 of 26** | 2 | 82.25 ± 1.41 % |" in text
