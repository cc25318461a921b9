"""Several processes on one machine: where they listen, and what happens when one dies."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import fork_server
import pytest
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed import FileStore

from cifar_lit.cli.checks import check_launched
from cifar_lit.fit import main
from cifar_lit.training.distributed import (
    RENDEZVOUS,
    RESUME,
    init_rendezvous,
    is_child,
    localhost_store,
    run_of_parent,
    watch_children,
    watch_parent,
)
from cifar_lit.utils.errors import RunError, UsageError
from tests.cli.refused import refused
from tests.conftest import BRIEF, QUICK, QUIET_TRAINER, ROOT

TWO = [*BRIEF, "--trainer.devices=2", "--trainer.accelerator=cpu"]


def sockets(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(file)
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def children(pid: int) -> list[int]:
    """Return the other training processes that the first one has started."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "cifar_lit"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def listening(pids: list[int]) -> set[str]:
    """Return the addresses, in hexadecimal digits as the kernel writes them, that processes listen on."""
    inodes = set().union(*(sockets(pid) for pid in pids))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and line[9] in inodes}


def start(log: Path) -> "subprocess.Popen[bytes]":
    """Start a long training in two processes, as in a notebook: the arguments of the process are other ones."""
    options = [*TWO, "--trainer.max_epochs=1000", "--process_timeout=100"]
    code = f"from cifar_lit.fit import main; main({options})"
    command = [sys.executable, "-c", code, "-f", "kernel.json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log, "w") as out:
        return subprocess.Popen(command, cwd=log.parent, env=env, stdout=out, stderr=out, start_new_session=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_processes_listen_on_localhost_only_and_end_with_an_error_when_one_dies(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = start(log)
    try:
        end = time.monotonic() + 200
        while "epoch 1/" not in log.read_text():
            assert first.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        second = children(first.pid)[0]
        assert listening([first.pid, second]) == {"0100007F"}  # 127.0.0.1
        os.kill(second, signal.SIGKILL)
        assert first.wait(60) == 1
        assert "error: another training process has died or does not answer (process_timeout)" in log.read_text()
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("start_of_connecting", [True, False])
def test_process_does_not_wait_forever_for_one_that_died_before_they_connected(
    start_of_connecting: bool, tmp_path: Path
) -> None:
    second = {"LOCAL_RANK": "1", RENDEZVOUS: str(tmp_path / "rendezvous"), RESUME: ""}
    if not start_of_connecting:  # what the first wrote before it died
        store = FileStore(second[RENDEZVOUS], 2)
        store.set("default_pg/0//cpu//0/rank_0", b"x")
    run = fork_server.run([*TWO, "--process_timeout=3"], tmp_path, env=second)
    assert run.wait(100) == 1
    assert "error: another training process" in run.output


def test_child_resumes_what_its_parent_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_child()
    for run in ("run", ""):
        monkeypatch.setenv(RESUME, run)
        assert is_child() and run_of_parent() == (Path(run) if run else None)


def torchrun(processes: int, machines: int) -> dict[str, str]:
    """Return the environment of a process of torchrun, in which Lightning sees it."""
    env = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes // machines, "GROUP_WORLD_SIZE": machines}
    env |= {"RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "x"}
    return {name: str(value) for name, value in env.items()}


def srun(processes: int, machines: int) -> dict[str, str]:
    """Return the environment of a task of srun."""
    env = {"SLURM_STEP_NUM_TASKS": processes, "SLURM_STEP_NUM_NODES": machines, "SLURM_NTASKS": processes}
    env |= {"SLURM_NTASKS_PER_NODE": processes // machines, "SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0, "SLURM_PROCID": 0}
    env |= {"SLURM_LOCALID": 0, "SLURM_NODEID": 0, "SLURM_JOB_NAME": "train"}
    return {name: str(value) for name, value in env.items()}


@pytest.mark.parametrize("launcher", [torchrun, srun])
@pytest.mark.parametrize(
    ("started", "devices", "num_nodes", "remedy"),
    [
        ((2, 1), 1, 1, "use --trainer.devices 2 --trainer.num_nodes 1, or start 1"),  # both forgotten
        ((4, 2), 2, 1, "use --trainer.devices 2 --trainer.num_nodes 2"),
        ((2, 2), 2, 1, "use --trainer.devices 1 --trainer.num_nodes 2"),
        ((1, 1), 2, 1, "use --trainer.devices 1 --trainer.num_nodes 1, or start 2"),  # would wait for the second one
        ((3, 2), 1, 2, "start the same number on each machine"),
        ((1, 1), 1, 1, None),  # also an independent step of a larger job
        ((2, 1), 2, 1, None),
        ((4, 2), 2, 2, None),
    ],
)
def test_launched_processes_must_be_those_of_the_trainer(
    launcher: Callable[[int, int], dict[str, str]],
    started: tuple[int, int],
    devices: int,
    num_nodes: int,
    remedy: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in launcher(*started).items():
        monkeypatch.setenv(name, value)
    trainer = Trainer(**QUIET_TRAINER, devices=devices, num_nodes=num_nodes)
    if remedy is None:
        check_launched(trainer)
    else:
        with pytest.raises(UsageError, match=f"{launcher.__name__} has started {started[0]} process.*{remedy}"):
            check_launched(trainer)


def test_process_that_the_trainer_does_not_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in torchrun(2, 1).items():
        monkeypatch.setenv(name, value)
    assert "--trainer.devices 2" in refused(capsys, main, *QUICK, "--trainer.accelerator=cpu", "--trainer.devices=1")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_tasks_of_srun_on_one_machine_meet_on_localhost_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda rank: localhost_store(port, rank, 2, timedelta(seconds=60)), (0, 1))
    first.set("key", "value")
    assert second.get("key") == b"value"
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    address = f"0100007F:{port:04X}"
    assert {line[1] for line in lines if line[1].endswith(address[8:]) and line[3] == "0A"} == {address}
    monkeypatch.setattr(os, "environ", {**srun(2, 1), "MASTER_PORT": str(port)})
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")] * 2, cluster_environment=SLURMEnvironment())
    with pytest.raises(RunError, match=f"port {port}.*set MASTER_PORT"):
        init_rendezvous(strategy, timedelta(seconds=600))
    for timer in (one for one in threading.enumerate() if isinstance(one, threading.Timer)):
        timer.join(10)  # it would end this process later
        assert not timer.is_alive()


def orphan(ignore: bool, grace: float, seconds: float) -> None:
    """Start a process that watches this one, and leave it."""
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as if it waited for another process
    else:
        signal.signal(signal.SIGTERM, lambda *_: os.write(2, b"saved") and os._exit(0))
    threading.Thread(target=watch_parent, args=(parent, grace), daemon=True).start()
    time.sleep(seconds)
    os._exit(0)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(
    ("ignore", "message"), [(False, "saved"), (True, "error: the process that started this one has died")]
)
def test_process_whose_parent_has_died_saves_and_ends(
    ignore: bool, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = multiprocessing.get_context("fork").Process(target=orphan, args=(ignore, 0.1 if ignore else 60, 60))
    first.start()
    output, end = "", time.monotonic() + 50
    while message not in output:
        assert time.monotonic() < end
        time.sleep(0.05)
        output += capfd.readouterr().err
    first.join(50)


def hang(ending: str, grace: float, seconds: float) -> None:
    others = [subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sh", "-c", ending])]
    threading.Thread(target=watch_children, args=(others, grace), daemon=True).start()
    time.sleep(seconds)
    others[0].kill()
    sys.exit(3)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(
    ("ending", "grace", "own", "code", "message"),
    [
        ("kill -9 $$", 0, 60, 1, "error: another training process has died (SIGKILL)"),
        ("exit 7", 0, 60, 1, "error: another training process has died (exit code 7)"),
        ("exit 7", 60, 1, 3, ""),  # fails by itself
        ("exit 0", 0, 1, 3, ""),
    ],
)
def test_parent_does_not_hang_when_a_child_has_died(
    ending: str, grace: float, own: float, code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = multiprocessing.get_context("fork").Process(target=hang, args=(ending, grace, own))
    first.start()
    first.join(50)
    output = capfd.readouterr().err.strip()
    assert first.exitcode == code and output.startswith(message) and bool(output) == bool(message)
