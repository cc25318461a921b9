"""scripts/reproduce: short trainings, their tables, and resumption."""

import json
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_lit.fit import main as fit
from tests.conftest import CONFIGS, ROOT

sys.path.insert(0, str(ROOT / "scripts" / "reproductions"))

from ablations import CHANGES, VALIDATION
from results import Record, add, load, write_tables
from training import Training

COMMAND = [sys.executable, str(ROOT / "scripts" / "reproductions")]
SHORT = [
    *("--data.source", "digits", "--data.image_size", "8", "--data.num_workers", "0", "--data.crop_padding", "1"),
    *("--model.stem", "imagenet", "--trainer.limit_train_batches", "2", "--trainer.limit_test_batches", "2"),
    *("--page.num_cams", "0", "--report", "quick", "--projector.num_images", "0", "--data.cutout_size", "2"),
    *("--misclassified.k", "1", "--samples.k", "1"),
]
TWO_SEEDS = ["baseline", "--seeds", "2", "--epochs", "1", "--data", "digits", "--", *SHORT]


def reproduce(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *args], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two seeds of a recipe were trained."""
    folder = tmp_path_factory.mktemp("reproduced")
    process = reproduce(folder, *TWO_SEEDS)
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


@pytest.mark.slow
def test_table_shows_mean_and_deviation_of_the_runs(done: Path) -> None:
    runs = [done / "lightning_logs" / "baseline" / f"version_{seed}" for seed in range(2)]
    metrics = [json.loads((run / "report" / "metrics.json").read_text()) for run in runs]
    text = (done / "results.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| 1 ")]
    assert "| digits |" in row and "| **1 of 26** | 2 |" in row and "`baseline`" in row
    for split in ("test", "test_flip_tta"):
        accuracies = [100 * one[split]["accuracy"] for one in metrics]
        assert f"| {statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}%" in row
    first, second = load(done / "results.json")
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["fingerprints"] == metrics[0]["fingerprints"] and first["seconds_total"] > 0
    tested = len((runs[0] / "report" / "predictions.csv").read_text().splitlines()) - 1
    assert first["test_images"] == tested and f"| {tested} |" in row
    assert first["hardware"] in text and first["precision"] in text and first["versions"]["torch"] in text
    assert all(commit[:7] in text for commit in first["commits"])


@pytest.mark.slow
def test_repeated_command_keeps_finished_runs_and_text(done: Path) -> None:
    def modified() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in done.rglob("lightning_logs/**/*") if file.is_file()}

    runs, records = modified(), load(done / "results.json")
    text = (done / "results.md").read_text().replace("# Results\n", "# Results\n\nSome text.\n")
    (done / "results.md").write_text(text)
    process = reproduce(done, *TWO_SEEDS)
    assert process.returncode == 0, process.stderr
    assert "baseline, seed 0 (kept): test accuracy" in process.stdout
    assert modified() == runs and load(done / "results.json") == records
    assert (done / "results.md").read_text() == text


@pytest.mark.slow
def test_single_seed_has_an_interval_of_the_images_tested(done: Path, tmp_path: Path) -> None:
    scores = {"val_accuracy": 0.928, "test_images": 1000, "test_accuracy": 0.926, "held_out": 5000}
    record = {**load(done / "results.json")[0], **scores}
    write_tables(tmp_path / "results.md", [record])
    assert "| 1 | 92.80% | 1,000 | 92.60% (90.81 to 94.06) |" in (tmp_path / "results.md").read_text()
    del record["test_images"], record["val_accuracy"]  # not recorded by earlier versions
    write_tables(tmp_path / "results.md", [record])
    assert "| 1 | - | - | 92.60% |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_interrupted_run_shows_time_of_epochs(done: Path, tmp_path: Path) -> None:
    interrupted = {**load(done / "results.json")[0], "seconds_total": None, "seconds_training": 7200.0}
    write_tables(tmp_path / "results.md", [interrupted])
    assert "| 120 min, epochs only |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_only_runs_of_the_same_command_count(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    training = Training(CONFIGS / "baseline.yaml", 1, 1, tuple(SHORT))
    assert training.finished_run() == Path("lightning_logs/baseline/version_1")
    for other in (replace(training, seed=2), replace(training, epochs=2), replace(training, options=())):
        assert other.run() is None


@pytest.mark.slow
def test_runs_of_an_edited_recipe_do_not_count(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(done / "lightning_logs", tmp_path / "lightning_logs")
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "baseline.yaml"
    training = Training(recipe, 1, 1, tuple(SHORT))
    file = tmp_path / "lightning_logs" / "baseline" / "version_1" / "provenance.json"
    recipe.write_text((CONFIGS / "baseline.yaml").read_text())
    provenance = {
        **json.loads(file.read_text()),
        "command": shlex.join(["python", "-m", "cifar_lit.fit", *training.args]),
    }
    file.write_text(json.dumps(provenance))
    assert training.run()
    recipe.write_text(recipe.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    assert training.run() is None


def interrupt_after_epoch(folder: Path, args: list[str]) -> str:
    """Start the command, send SIGTERM after the first epoch that it prints, and return the output."""
    process = subprocess.Popen(
        [*COMMAND, *args], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    timeout = threading.Timer(300, process.kill)
    timeout.start()
    assert process.stdout
    output = ""
    for line in process.stdout:
        output += line
        if re.match(r"epoch \d+/300", line):
            process.send_signal(signal.SIGTERM)
            break
    output += process.communicate()[0]
    timeout.cancel()
    assert process.returncode == 143, output
    return output


@pytest.mark.slow
def test_interrupted_run_is_resumed(tmp_path: Path) -> None:
    args = ["onecycle", "--epochs", "300", "--", *SHORT, "--data.val_size", "100"]
    output = interrupt_after_epoch(tmp_path, args)
    assert "the same command resumes the interrupted one" in output
    assert not (tmp_path / "results.json").exists()
    interrupt_after_epoch(tmp_path, args)
    run = tmp_path / "lightning_logs" / "onecycle" / "version_0"
    assert [path.name for path in run.parent.iterdir() if path.is_dir()] == ["version_0"]
    assert len(list(run.glob("provenance*.json"))) == 2


@pytest.mark.slow
def test_failed_training_is_reported(tmp_path: Path) -> None:
    process = reproduce(tmp_path, "baseline", "--epochs", "2", "--", *SHORT, "--model.optimizer.init_args.lr", "1e30")
    assert process.returncode == 1
    assert "these trainings have no result" in process.stderr and "baseline, seed 0" in process.stderr
    assert not (tmp_path / "results.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give recipes (baseline, imagenet_stem"),
        (["bestest"], "unknown recipe bestest; choose from baseline"),
        (["tuned", "--seeds", "0"], "--seeds must be 1 or more, got 0"),
        (["tuned", "--all"], "give recipes (baseline, imagenet_stem, laptop, onecycle"),
        (["tuned", "--data.source", "digits"], "options of fit go after --"),
        (["tuned", "--", "--trainer.max_epochs", "3"], "--epochs shortens the training"),
        (["tuned", "--", "--seed_everything=3"], "--seeds N trains with the seeds 0 to N - 1"),
        (["tuned", "--out", "nowhere"], "--out nowhere: no such folder"),
    ],
)
def test_invalid_arguments(args: list[str], message: str, tmp_path: Path) -> None:
    process = reproduce(tmp_path, *args)
    assert process.returncode == 2
    assert message in process.stderr and "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ablations_change_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    def config(*args: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            fit(["--config", str(CONFIGS / "tuned.yaml"), *VALIDATION, *args, "--print_config"])
        return capsys.readouterr().out

    unchanged = config()
    assert [name for name, args in CHANGES.items() if config(*args) == unchanged] == ["none"]


@pytest.mark.slow
def test_results_file_without_markers(tmp_path: Path) -> None:
    (tmp_path / "results.md").write_text("# Mine\n")
    process = reproduce(tmp_path, "configs/tuned.yaml", "--epochs", "1", "--", *SHORT)
    assert process.returncode == 2
    assert "has no lines <!-- results --> and <!-- /results -->" in process.stderr and "--out" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results.md"]


@pytest.mark.slow
def test_ablations_table_shows_validation_accuracy(done: Path, tmp_path: Path) -> None:
    record: Record = {**load(done / "results.json")[0], "change": "no cutout", "options": "--data.val_size 5000"}
    for key in ("test_accuracy", "test_accuracy_flip_tta", "weights"):
        del record[key]
    for seed, accuracy in enumerate((0.8125, 0.8325)):
        records = add(tmp_path / "results.json", {**record, "seed": seed, "val_accuracy": accuracy})
        write_tables(tmp_path / "results.md", records)
    text = (tmp_path / "results.md").read_text()
    assert "| `baseline` | no cutout | digits | **1 of 26** | 2 | 82.25 ± 1.41% |" in text


def test_tables_in_the_repository_match_results_json(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    (tmp_path / "results.md").write_text(text)
    write_tables(tmp_path / "results.md", load(ROOT / "docs" / "results.json"))
    assert (tmp_path / "results.md").read_text() == text
