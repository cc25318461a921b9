"""Several processes on one machine: where they listen, and what happens when one dies."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fork_server
import pytest
from torch.distributed import FileStore

from cifar_lit.fit import main
from cifar_lit.training.distributed import RENDEZVOUS, RESUME, is_child, run_of_parent, watch_children
from tests.conftest import QUICK, ROOT

TWO = [*QUICK, "--trainer.devices=2", "--trainer.accelerator=cpu"]


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
    """Start a long training in two processes."""
    command = [sys.executable, "-m", "cifar_lit.fit", *TWO, "--trainer.max_epochs=1000", "--process_timeout=100"]
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


def test_torchrun_with_another_number_of_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(SystemExit, match="2"):
        main(TWO)
    assert "error: trainer:" in capsys.readouterr().err and not list(tmp_path.iterdir())


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
