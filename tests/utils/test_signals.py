"""Ctrl-C, SIGTERM and SLURM's signal: real processes, real signals."""

import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import fork_server
import pytest
from comparison import BLANK, SMALL, run_folder

from cifar_lit.utils.signals import SLURM_SIGNAL, handled

LONG = [*SMALL, "--data.num_workers", "1", "--trainer.max_epochs"]


def start(
    folder: Path, *args: str, until: str = "epoch 1/", env: dict[str, str] | None = None, before: str | None = None
) -> fork_server.Group:
    """Start a run and wait until it has printed something."""
    run = fork_server.run(args, folder, env=env, before=before)
    wait(lambda: until in run.output or run.exit_code is not None)
    return run


def wait(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail after two minutes."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("signum", "to_all"),
    [
        (signal.SIGINT, True),  # Ctrl-C
        (signal.SIGTERM, False),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),  # `timeout` and job schedulers
    ],
)
def test_signal_saves_and_names_the_command_to_resume(signum: signal.Signals, to_all: bool, tmp_path: Path) -> None:
    run = start(tmp_path, *LONG, "1000")
    os.killpg(run.processes[0].pid, signal.SIGHUP)  # a closed terminal is no reason to stop
    (os.killpg if to_all else os.kill)(run.processes[0].pid, signum)  # all: also the workers
    assert run.wait(60) == 128 + signum
    assert f"stopped by {signum.name}; saved in" in run.output
    assert "Traceback" not in run.output and "error:" not in run.output
    command = shlex.split(run.output.strip().splitlines()[-1])
    folder = f"lightning_logs{os.sep}demo{os.sep}version_0"
    assert command[1:3] == ["-m", "cifar_lit.fit"] and command[-2:] == ["--ckpt_path", folder]
    again = start(tmp_path, *command[3:], until="resuming")
    again.kill()
    assert f"resuming {folder}" in again.output


def test_second_ctrl_c_exits_immediately(tmp_path: Path) -> None:
    slow = ["--trainer.limit_train_batches", "300", "--data.batch_size", "4"]
    slow += ["--trainer.accumulate_grad_batches", "300"]
    run = start(tmp_path, *SMALL, *slow, "--trainer.max_epochs", "1", until="training: 1 epoch of")
    time.sleep(0.3)
    run.kill(signal.SIGINT)
    wait(lambda: "SIGINT: saving after this step" in run.output)
    began = time.monotonic()
    run.kill(signal.SIGINT)
    assert run.wait(60) == 130
    assert time.monotonic() - began < 2
    assert not (run_folder(tmp_path) / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_signal_during_the_report_keeps_the_training(tmp_path: Path) -> None:
    long_report = ["--page.num_cams", "1000", "--report", "full", "--evidence.num_removed", "1000"]  # takes a minute
    run = start(tmp_path, *LONG, "1", *long_report)
    wait(lambda: bool(list(tmp_path.rglob("class_accuracy.png"))))  # written before the page
    run.kill(signal.SIGTERM)
    assert run.wait(60) == 143
    assert "the training is finished and saved; " in run.output


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a SLURM job; a fake scontrol writes its arguments to `requests`."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requests\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    return slurm | {"SLURM_NTASKS_PER_NODE": "1"}


@pytest.mark.slow
def test_slurm_job_is_requeued_during_the_report(tmp_path: Path, slurm: dict[str, str]) -> None:
    first = start(tmp_path, *LONG, "1", env=slurm)
    wait(lambda: bool(list(tmp_path.glob("lightning_logs/*/*/report/*"))))
    first.kill(signal.SIGUSR1)
    assert first.wait(60) == 128 + signal.SIGUSR1
    assert (tmp_path / "requests").read_text() == "requeue 77\n"
    shutil.rmtree(run_folder(tmp_path) / "report", ignore_errors=True)
    args = [*LONG, "1", "--ckpt_path", "last"]  # from another job's run
    run = start(tmp_path, *args, until="creating the report again", env={**slurm, "SLURM_JOB_ID": "78"})
    wait(lambda: (run_folder(tmp_path) / "report").exists())
    run.kill(signal.SIGUSR1)
    assert run.wait(60) == 128 + signal.SIGUSR1
    assert (tmp_path / "requests").read_text() == "requeue 77\nrequeue 78\n"
    env = {**slurm, "SLURM_JOB_ID": "78", "SLURM_RESTART_COUNT": "1"}
    again = start(tmp_path, *args, until="never", env=env, before=BLANK)
    assert again.exit_code == 0 and "training has already finished; creating the report again" in again.output
    assert len(list(tmp_path.glob("lightning_logs/*/version_*"))) == 1


@pytest.mark.slow
def test_simultaneous_runs_get_two_folders_and_lock_them(tmp_path: Path) -> None:
    both = [fork_server.run([*LONG, "1000"], tmp_path) for _ in range(2)]
    wait(lambda: both[0].output.count("epoch 1/") == 2)
    assert {run.name for run in tmp_path.glob("lightning_logs/demo/*")} == {"version_0", "version_1"}
    third = fork_server.run([*LONG, "1000", "--ckpt_path", "last"], tmp_path)
    assert third.wait(60) == 2
    assert "version_1 is being trained by another process" in third.output
    for run in both:
        run.kill()
        run.wait(60)


@pytest.mark.parametrize("slurm_signal", [SLURM_SIGNAL, None])  # None on Windows
def test_handlers_are_restored(slurm_signal: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_lit.utils.signals.SLURM_SIGNAL", slurm_signal)
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with handled():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
