"""Runs of `python -m cifar_lit.fit` as real processes that begin at once: forked from this one, which has imported it."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_lit import cli, fit  # noqa: F401  # so that the children need not import anything


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

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, None if it still runs after some seconds."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        return self.code

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to it and its workers."""
        if self.poll() is None:
            os.killpg(self.pid, signum)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


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
