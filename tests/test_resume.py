"""Resuming runs with `--ckpt_path`, and starting new ones with `--model.weights`."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import fork_server
import pytest
import torch
from comparison import BLANK, figures_left_blank
from filelock import FileLock

from cifar_lit.fit import main
from tests.cli.refused import files, refused
from tests.conftest import BRIEF, CONFIGS, ROOT

Fit = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

OPTIONS = [*BRIEF, "--model.schedule.name=constant"]
EMA = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"
OWN_SAVER = [
    "--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint",
    "--trainer.callbacks.monitor=val/loss",
    "--trainer.callbacks.filename=lowest_loss",
]


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def load(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_weights(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in actual.items())


def trained(folder: Path, *args: str) -> Path:
    """Train in a folder, and return the run."""
    with pytest.MonkeyPatch.context() as patch, figures_left_blank():
        patch.chdir(folder)
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        main([*OPTIONS, *args])
    return folder / "lightning_logs" / "demo" / "version_0"


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs without interruption."""
    return trained(tmp_path_factory.mktemp("two"), "--trainer.max_epochs=2", "--ckpt_path=auto")  # there is no run yet


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first epoch of the same run."""
    return trained(tmp_path_factory.mktemp("one"), *OWN_SAVER)


@pytest.fixture
def run(one_epoch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_figures: None) -> Path:
    """A copy of the first epoch's run in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    return Path(shutil.copytree(one_epoch, "lightning_logs/demo/version_0"))


def as_it_is(run: Path) -> str:
    return str(run)


def newest(run: Path) -> str:
    shutil.copytree(run, run.with_name("version_1"))
    shutil.rmtree(run)
    run.with_name("version_1").rename(run)
    return "last"


def renamed(run: Path) -> str:
    return str(run.rename(run.with_name("my best run")))


def moved(run: Path) -> str:
    os.mkdir("elsewhere")
    return str(run.rename("elsewhere/run"))


def other_folder(run: Path) -> str:
    os.mkdir("work")
    os.chdir("work")
    return os.path.join("..", run)


MOVES = {"not moved": as_it_is, "moved": moved, "other folder": other_folder}
MORE = ["--trainer.max_epochs=2"]
# The rows of the table in docs/resuming.md: what happened to the run, and what else is given with --ckpt_path.
RESUMED: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "by its folder, without other options": (as_it_is, []),
    "as the newest run (`last`)": (newest, []),
    "renamed": (renamed, ["--process_timeout=100"]),
    "moved to another folder": (moved, []),
    "from another working folder": (other_folder, []),
    "with the recipe and the options of its start again": (as_it_is, [*OPTIONS, *OWN_SAVER]),
    "the same, as the newest run of the recipe (`auto`)": (lambda run: "auto", [*OPTIONS, *OWN_SAVER]),
    "with another number of workers (`data.num_workers`)": (as_it_is, ["--data.num_workers=1"]),
    "with another logger, progress bar or report": (
        as_it_is,
        ["--trainer.logger=false", "--trainer.enable_progress_bar=true", "--misclassified.k=1"],
    ),
}
REFUSED = {
    "another learning rate, momentum or weight decay": "--model.optimizer.init_args.lr=0.5",
    "another optimizer": "--model.optimizer=AdamW",
    "another schedule": "--model.schedule.name=plateau",
    "another model": "--model.norm=layer",
    "other data": "--data.source=cifar10",
    "another image size or augmentation": "--data.image_size=24",
    "another split of the validation images": "--data.val_size=100",
    "another seed": "--seed_everything=1",
    "another seed of the data": "--data.seed=1",
    "another effective batch size": "--data.batch_size=16",
    "another accumulation of gradients": "--trainer.accumulate_grad_batches=2",
    "another precision": "--trainer.precision=bf16-mixed",
    "other callbacks": EMA,
    "another recipe": f"--config={CONFIGS / 'imagenet_stem.yaml'}",
    "with `--model.weights`": "--model.weights=lightning_logs/demo/version_0",
}


def test_run_with_an_option_that_was_removed_is_refused(run: Path, capsys: Capture) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("page:\n", "page:\n  num_road: 10\n"))
    before = files(run)
    message = refused(capsys, main, f"--ckpt_path={run}")
    assert f"{config}: there is no option 'page.num_road'; evidence.num_removed replaces it" in message
    assert "correct it in this file to resume the run" in message and files(run) == before


def some_slow(cases: Iterable[str], fast: Collection[str]) -> list[Any]:
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("case", some_slow(RESUMED, ["renamed"]))
def test_resumed_run_is_identical(case: str, run: Path, two_epochs: Path) -> None:
    prepare, options = RESUMED[case]
    place = prepare(run)
    main(["--ckpt_path", place, *options, *MORE])
    resumed = run if place in ("last", "auto") else Path(place)
    assert_same_weights(load(resumed)["state_dict"], load(two_epochs)["state_dict"])
    for name in ("misclassified.csv", "metrics.json"):
        assert (resumed / "report" / name).read_text() == (two_epochs / "report" / name).read_text()
    assert [row["epoch"] for row in rows(resumed / "report" / "history.csv")] == ["1", "2"]
    assert len((resumed / "log.txt").read_text().splitlines()) == 2
    config = (resumed / "config.yaml").read_text()
    assert "max_epochs: 1" in config and "ckpt_path: null" in config  # as the run was started
    assert "max_epochs: 2" in (resumed / "config_2.yaml").read_text() and (resumed / "provenance_2.json").exists()


@pytest.mark.parametrize("place", some_slow(MOVES, ["moved"]))
def test_best_checkpoint_is_kept_if_no_later_epoch_is_better(place: str, run: Path) -> None:
    last = load(run)
    for state in last["callbacks"].values():
        if "best_model_score" in state:  # better than any
            state["best_model_score"] = torch.tensor(2.0 if "accuracy" in state["monitor"] else -1.0)
            state["best_k_models"] = {path: state["best_model_score"] for path in state["best_k_models"]}
            state["kth_value"] = state["best_model_score"]
    torch.save(last, run / "checkpoints" / "last.ckpt")
    names = ("best.ckpt", "lowest_loss.ckpt")
    before = {name: (run / "checkpoints" / name).read_bytes() for name in names}
    resumed = Path(MOVES[place](run))
    main(["--ckpt_path", str(resumed), *MORE])
    assert {name: (resumed / "checkpoints" / name).read_bytes() for name in names} == before
    assert {file.name for file in (resumed / "checkpoints").glob("*.ckpt")} == {*names, "last.ckpt"}
    assert "best weights, epoch 1" in (resumed / "report" / "metrics.json").read_text()


@pytest.mark.parametrize("case", REFUSED)
def test_option_that_changes_the_training_is_refused(case: str, run: Path, capsys: Capture) -> None:
    before = files(run.parents[2])
    message = refused(capsys, main, "--ckpt_path=last" if "recipe" not in case else f"--ckpt_path={run}", REFUSED[case])
    option = "data.source" if "recipe" in case else REFUSED[case].removeprefix("--").split("=")[0].rstrip("+")
    assert option in message and str(run) in message
    assert files(run.parents[2]) == before


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_length_of_a_schedule_planned_for_it_is_kept(name: str, run: Path, capsys: Capture) -> None:
    config = run / "config.yaml"  # as if the run had been started so
    text = config.read_text().replace("name: constant", f"name: {name}").replace("max_epochs: 1\n", "max_epochs: 5\n")
    config.write_text(text)
    unchanged = files(run)
    for epochs in (4, 6):
        message = refused(capsys, main, f"--ckpt_path={run}", f"--trainer.max_epochs={epochs}")
        assert f"trainer.max_epochs={epochs} (the run has 5); the schedule {name} depends on" in message
        assert files(run) == unchanged


TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.slow
def test_processes_may_change_with_the_same_images_per_step(run: Path, capsys: Capture) -> None:
    message = refused(capsys, main, "--ckpt_path=last", *TWO, *MORE)
    assert "64 images per step, but the run has 32" in message and "--data.batch_size 16" in message
    args = ["--ckpt_path=last", "--data.batch_size=16", *MORE]
    resumed = fork_server.run(args, Path.cwd(), processes=2, before=BLANK)
    assert resumed.wait(300) == 0, resumed.output
    assert "not bit-for-bit identical to an uninterrupted run: processes 2 instead of 1" in resumed.output
    assert [row["epoch"] for row in rows(run / "report" / "history.csv")] == ["1", "2"]


@pytest.mark.slow
def test_training_in_max_steps_is_resumed(fit: Fit) -> None:
    steps = [*OPTIONS, "--trainer.max_epochs=-1"]
    uninterrupted = fit(*steps, "--trainer.max_steps=6")
    run = fit(*steps, "--trainer.max_steps=3")
    main(["--ckpt_path", str(run), "--trainer.max_steps=6"])
    assert_same_weights(load(run)["state_dict"], load(uninterrupted)["state_dict"])


def test_finished_run_without_its_last_checkpoint_is_not_trained_again(run: Path, capsys: Capture) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()
    before = files(run)
    assert "last.ckpt is missing" in refused(capsys, main, f"--ckpt_path={run}") and files(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("val_size", [100, 0])
def test_finished_run_creates_the_same_report_again(val_size: int, fit: Fit) -> None:
    run = fit(*OPTIONS, f"--data.val_size={val_size}", EMA)
    before = {name: (run / "report" / name).read_text() for name in ("predictions.csv", "metrics.json")}
    assert fit("--ckpt_path=last") == run
    assert before == {name: (run / "report" / name).read_text() for name in before}


@pytest.mark.slow
def test_early_stopped_run_is_finished(fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        "trainer:\n  callbacks:\n    - class_path: pytorch_lightning.callbacks.EarlyStopping\n"
        "      init_args: {monitor: val/accuracy, mode: max, patience: 0, min_delta: 1.0}\n"
    )
    run = fit(*OPTIONS, "--config", str(extra), "--trainer.max_epochs=9")
    assert len(rows(run / "report" / "history.csv")) == 2  # stopped after one epoch without improvement
    checkpoint = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    main(["--ckpt_path", str(run)])
    assert caplog.text.count("EarlyStopping ended the training: Monitored metric val/accuracy did not improve") == 2
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == checkpoint
    assert (run / "report" / "misclassified.png").exists()


@pytest.mark.slow
def test_run_without_checkpoint_starts_over_in_its_folder(run: Path, one_epoch: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "report")
    (run / "provenance.json").unlink()
    main(["--ckpt_path=last"])
    assert_same_weights(load(run)["state_dict"], load(one_epoch)["state_dict"])
    assert [folder.name for folder in run.parent.iterdir()] == ["version_0"]


@pytest.mark.slow
def test_options_of_the_last_resumption_are_kept(run: Path) -> None:
    main(["--ckpt_path=last", *MORE])
    main(["--ckpt_path=last"])
    assert load(run)["epoch"] == 1


def test_last_is_the_newest_run_of_the_given_recipe_or_of_all(run: Path, capsys: Capture) -> None:
    other = shutil.copytree(run, run.parents[1] / "other" / "version_7")
    os.utime(run / "config.yaml", (0, 0))
    lr = "--model.optimizer.init_args.lr=0.5"
    assert f"--ckpt_path {other}" in refused(capsys, main, "--ckpt_path=last", lr)
    for newest in ("last", "auto"):
        args = ["--config", str(CONFIGS / "demo.yaml"), f"--ckpt_path={newest}", lr]
        assert f"--ckpt_path {run}" in refused(capsys, main, *args)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, on which each write finds the disk full")
def test_full_disk_keeps_the_last_checkpoint(run: Path, two_epochs: Path, capsys: Capture) -> None:
    last = run / "checkpoints" / "last.ckpt"
    last.with_name("last.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as exit_:
        main([f"--ckpt_path={run}", *MORE])
    assert exit_.value.code == 1
    message = capsys.readouterr().err
    assert f"'{last}'" in message and f"--ckpt_path {run}" in message and "Traceback" not in message
    assert load(run)["epoch"] == 0
    main([f"--ckpt_path={run}", *MORE])
    assert_same_weights(load(run)["state_dict"], load(two_epochs)["state_dict"])


def test_run_in_training_is_refused(run: Path, capsys: Capture) -> None:
    provenance = json.loads((run / "provenance.json").read_text()) | {"folder": str(Path.cwd())}
    (run / "provenance.json").write_text(json.dumps(provenance))
    Path("data").mkdir()  # of other runs; this one does not use data.root
    with FileLock(run / ".lock"):
        assert "is being trained by another process" in refused(capsys, main, f"--ckpt_path={run}", *MORE)


def test_other_images_are_refused(run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    last = load(run)
    last["ImageDataModule"]["train"] = "0" * 32
    torch.save(last, run / "checkpoints" / "last.ckpt")
    before = files(run)
    assert "contains other images" in refused(capsys, main, "--ckpt_path=last", *MORE)
    assert files(run) == before


def test_file_is_refused(run: Path, capsys: Capture) -> None:
    message = refused(capsys, main, f"--ckpt_path={run}/checkpoints/best.ckpt")
    assert "use its folder" in message and f"--model.weights {run}/checkpoints/best.ckpt" in message


@pytest.mark.parametrize("file", ["", pytest.param("checkpoints/last.ckpt", marks=pytest.mark.slow)])
def test_new_run_starts_from_weights(file: str, run: Path) -> None:
    main([*OPTIONS, "--model.optimizer=AdamW", "--model.optimizer.init_args.lr=0", f"--model.weights={run / file}"])
    new = run.with_name("version_1")
    assert [row["epoch"] for row in rows(new / "report" / "history.csv")] == ["1"]
    source = load(run, "last" if file else "best")["state_dict"]
    trained = {name: value for name, value in load(new)["state_dict"].items() if "running" not in name}
    assert all(torch.equal(value, source[name]) for name, value in trained.items() if "num_batches" not in name)
    if not file:  # it is not needed again
        shutil.rmtree(run)
        main(["--ckpt_path", str(new)])
        assert f"weights: {run}" in (new / "config_2.yaml").read_text()


def test_head_for_other_classes_is_initialized_again(
    run: Path, caplog: pytest.LogCaptureFixture, capsys: Capture
) -> None:
    from cifar_lit.models.classifier import ImageClassifier

    build = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "stem": "imagenet"}
    with caplog.at_level("INFO"):
        module = ImageClassifier(7, **build, weights=str(run))
    assert "10 classes instead of 7" in caplog.text
    source = load(run, "best")["state_dict"]
    assert torch.equal(module.net.backbone.layer4[1].conv2.weight, source["net.backbone.layer4.1.conv2.weight"])
    assert module.net.backbone.fc.weight.shape == (7, 512)
    assert "model.norm batch (now layer)" in refused(
        capsys, main, *OPTIONS, "--model.norm=layer", f"--model.weights={run}"
    )
    assert "--model.weights nowhere" in refused(capsys, main, *OPTIONS, "--model.weights=nowhere")


OTHER_ROWS = {
    "with other processes, same effective batch size": test_processes_may_change_with_the_same_images_per_step,
    "finished: only its report is created again": test_finished_run_creates_the_same_report_again,
    "stopped by EarlyStopping: the same": test_early_stopped_run_is_finished,
    "without a checkpoint yet: starts over in its folder": test_run_without_checkpoint_starts_over_in_its_folder,
    "other epochs than planned, schedule updated every step": test_length_of_a_schedule_planned_for_it_is_kept,
    "being trained by another process": test_run_in_training_is_refused,
    "other images in the folder of its data": test_other_images_are_refused,
    "by a `.ckpt` file instead of the run's folder": test_file_is_refused,
}


def test_rows_of_the_documentation_are_tested() -> None:
    text = (ROOT / "docs" / "resuming.md").read_text(encoding="utf-8")
    header, *table = re.findall(r"^\| (.*?) +\|", text, flags=re.MULTILINE)
    assert header == "a run" and sorted(table) == sorted([*RESUMED, *REFUSED, *OTHER_ROWS])
