"""Runs of `python -m cifar_lit.fit` as processes that begin at once: forked from this one, which has imported it."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_lit import cli, fit  # noqa: F401  # so that the children need not import anything


class Group:
    """The processes of one run, one or several.

    Args:
        processes: The first one is that of rank 0.
    """

    def __init__(self, processes: Sequence["Process"]) -> None:
        self.processes = processes

    @property
    def code(self) -> int | None:
        """The exit code of the first process that ended badly, else 0; None while one of them runs."""
        codes = [process.poll() for process in self.processes]
        return None if None in codes else next((code for code in codes if code), 0)

    @property
    def said(self) -> str:
        """What all of them printed."""
        return self.processes[0].log.read_text(errors="replace")

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, None if one still runs after some seconds."""
        end = time.monotonic() + seconds
        while self.code is None and time.monotonic() < end:
            time.sleep(0.02)
        return self.code

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to all of them, and to their workers unless the signal is one that only asks."""
        for process in self.processes:
            process.kill(signum)


def run(args: Sequence[str], folder: Path, processes: int = 1, before: Callable[[], None] | None = None) -> Group:
    """Begin a run of one or several processes in a folder."""
    if processes == 1:
        return Group([start(args, folder, before=before)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "TORCHELASTIC_RUN_ID": "torture",  # by which Lightning knows torchrun
        "GROUP_RANK": "0",
    }
    args = [*args, "--trainer.devices", str(processes), "--trainer.accelerator", "cpu"]
    each = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return Group([start(args, folder, {**together, **own}, before) for own in each])


@dataclass
class Process:
    """A run, in a session of its own together with its workers.

    Attributes:
        pid: Its number.
        log: What it printed so far.
        code: Its exit code, negative for a signal; None while it runs.
    """

    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal, SIGKILL and Ctrl-C to its workers, too, as the system and a terminal do."""
        if self.poll() is None:
            if signum in (signal.SIGKILL, signal.SIGINT):
                os.killpg(self.pid, signum)
            else:
                os.kill(self.pid, signum)


def start(
    args: Sequence[str],
    folder: Path,
    env: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Process:
    """Begin a run in a folder; `before` is called in it first, to spoil something. Runs of one folder share a log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    log.touch()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Process(pid, log)
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ.update(env or {})
        os.environ.pop("PL_GLOBAL_SEED", None)
        sys.argv = ["fit", *args]
        if before:
            before()
        fit.main(list(args))
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
