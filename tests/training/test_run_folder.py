import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from pytorch_lightning import LightningModule, Trainer

from cifar_lit.training import run_folder as runs
from cifar_lit.training.run import keep_metrics
from cifar_lit.utils.errors import UsageError
from tests.conftest import QUIET_TRAINER

CONFIG = "seed_everything: 0\n"


def test_run_gets_the_next_version(tmp_path: Path) -> None:
    for taken in ("version_0", "version_10", "version_x", "other"):
        (tmp_path / taken).mkdir()
    assert runs.create(tmp_path, CONFIG) == tmp_path / "version_11"
    assert [run.name for run in runs.versions(tmp_path)] == ["version_0", "version_10", "version_11"]


@pytest.mark.parametrize("file", ["lightning_logs", "lightning_logs/demo"])
def test_file_in_place_of_a_folder_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(UsageError, match=rf"{tmp_path}/lightning_logs.*--trainer\.default_root_dir"):
        runs.create(tmp_path / "lightning_logs" / "demo", CONFIG)


def test_simultaneous_runs_get_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [[]]  # before the other run was created
    versions = runs.versions

    def outdated_once(folder: Path) -> Sequence[Path]:
        return seen.pop() if seen else versions(folder)

    first = runs.create(tmp_path, CONFIG)
    monkeypatch.setattr(runs, "versions", outdated_once)
    assert runs.create(tmp_path, CONFIG) == tmp_path / "version_1"
    assert [(run / "config.yaml").read_text() for run in (first, tmp_path / "version_1")] == [CONFIG] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"version_0", "version_1"}


def test_locked_folder_is_refused(tmp_path: Path) -> None:
    with runs.lock(tmp_path):
        with pytest.raises(UsageError, match="is being trained by another process"), runs.lock(tmp_path):
            pass
    with runs.lock(tmp_path):
        pass


def test_locked_folder_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = runs.lock(tmp_path)
    holder.__enter__()
    threading.Timer(0.2, lambda: holder.__exit__(None, None, None)).start()
    with caplog.at_level("INFO"), runs.lock(tmp_path, timeout_s=60):
        assert "waiting up to 60 s for another process" in caplog.text


def test_removed_run_leaves_no_empty_folders(tmp_path: Path) -> None:
    recipe = tmp_path / "lightning_logs" / "demo"
    first, second = runs.create(recipe, CONFIG), runs.create(recipe, CONFIG)
    runs.remove(second)
    assert first.exists() and not second.exists()
    runs.remove(first)
    assert not list(tmp_path.glob("lightning_logs"))


def test_paths_of_a_run_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.create(tmp_path / "old" / "lightning_logs" / "demo", CONFIG)
    assert runs.data_path(run, "data") == "data"
    (run / "provenance.json").write_text(json.dumps({"folder": str(tmp_path / "old")}))
    (run / "provenance_2.json").write_text(json.dumps({"folder": str(tmp_path / "removed")}))
    assert runs.data_path(run, "data") == "data"  # does not exist there
    (tmp_path / "old" / "data").mkdir()
    assert runs.data_path(run, "data") == str(tmp_path / "old" / "data")
    assert runs.data_path(run, str(tmp_path)) == str(tmp_path)


def test_parts_of_a_run_are_in_order(tmp_path: Path) -> None:
    for name in ("config.yaml", "config_2.yaml", "config_10.yaml", "config_old.yaml", "config_2_copy.yaml"):
        (tmp_path / name).touch()
    assert [file.name for file in runs.parts(tmp_path, "config.yaml")] == [
        "config.yaml",
        "config_2.yaml",
        "config_10.yaml",
    ]


def test_requeued_job_finds_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for job, command in (("7", "fit"), ("7", "fit --seed_everything 1"), ("8", "fit")):
        (runs.create(tmp_path, CONFIG) / "provenance.json").write_text(
            f'{{"slurm_job": "{job}", "command": "{command}"}}'
        )
    (runs.create(tmp_path, CONFIG) / "provenance.json").write_text('{"slurm_')  # being written by another job
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert runs.requeued(tmp_path, "fit") is None  # its first start
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert runs.requeued(tmp_path, "fit") == tmp_path / "version_0"
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert runs.requeued(tmp_path, "fit") is None


def test_process_with_other_files_than_the_first_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, folder = Trainer(**QUIET_TRAINER), runs.RunFolder()
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda _: (tmp_path, 7))  # from another machine
    with pytest.raises(UsageError, match="resume from step 0, but rank 0 from step 7; all machines need the same"):
        folder.setup(trainer, LightningModule(), "fit")
    folder.step = 7
    folder.setup(trainer, LightningModule(), "fit")
    assert folder.path == tmp_path


def test_newest_run_of_a_recipe_or_of_all(tmp_path: Path) -> None:
    assert runs.newest(tmp_path, None) is runs.newest(tmp_path, "demo") is None
    demo, _, other = (runs.create(tmp_path / name, "") for name in ("demo", "other", "other"))
    os.utime(demo / "config.yaml", (0, 0))
    assert runs.newest(tmp_path, None) == other and runs.newest(tmp_path, "demo") == demo


def test_metrics_of_a_csv_logger_are_kept(tmp_path: Path) -> None:
    keep_metrics(tmp_path)
    for number in (1, 2):
        (tmp_path / "metrics.csv").write_text(str(number))
        keep_metrics(tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"metrics_1.csv": "1", "metrics_2.csv": "2"}
    (tmp_path / "metrics_1.csv").unlink()
    (tmp_path / "metrics.csv").write_text("3")
    keep_metrics(tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"metrics_1.csv": "3", "metrics_2.csv": "2"}
