"""Runs of `python -m cifar_lit.fit` as processes that begin at once: forked from one that has imported it.

This file is that one, too: started as a program it reads what to run from its input, line by line.
"""

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


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
        logs = dict.fromkeys(process.log for process in self.processes)
        return "".join(log.read_text(errors="replace") for log in logs)

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


def run(
    args: Sequence[str],
    folder: Path,
    processes: int = 1,
    env: dict[str, str] | None = None,
    before: str | None = None,
    machines: bool = False,
) -> Group:
    """Begin a run of one or several processes in a folder; they share a log.

    Args:
        args: The command line.
        folder: Made if need be; where they run.
        processes: How many.
        env: Further variables of their environment.
        before: `module:function` of this folder, called in each of them first, to spoil something.
        machines: Let each take itself for the only one of its machine, in a folder of its own.
    """
    if processes == 1:
        return Group([_start(args, folder, env or {}, before)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "TORCHELASTIC_RUN_ID": "inject_faults",  # by which Lightning knows torchrun
        **(env or {}),
    }
    args = [*args, "--trainer.accelerator", "cpu"]
    if machines:
        args += ["--trainer.devices", "1", "--trainer.num_nodes", str(processes)]
    else:
        args += ["--trainer.devices", str(processes)]
    started = []
    for rank in range(processes):
        node, local, here = (rank, 0, 1) if machines else (0, rank, processes)
        own = {"RANK": rank, "LOCAL_RANK": local, "GROUP_RANK": node, "LOCAL_WORLD_SIZE": here}
        where = folder / f"machine_{rank}" if machines and rank else folder
        started.append(_start(args, where, {**together, **{k: str(v) for k, v in own.items()}}, before))
    return Group(started)


@dataclass
class Process:
    """A run, in a session of its own together with its workers.

    Attributes:
        pid: Its number.
        log: What it prints.
        end: The file that its exit code is written to.
    """

    pid: int
    log: Path
    end: Path

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        try:
            return int(self.end.read_text())
        except (FileNotFoundError, ValueError):  # not there, or not written yet
            return None

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal, SIGKILL and Ctrl-C to its workers, too, as the system and a terminal do."""
        if self.poll() is None:
            try:
                (os.killpg if signum in (signal.SIGKILL, signal.SIGINT) else os.kill)(self.pid, signum)
            except ProcessLookupError:  # has just ended
                pass


def _start(args: Sequence[str], folder: Path, env: dict[str, str], before: str | None) -> Process:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    log.touch()
    server = _server()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps({"args": list(args), "folder": str(folder), "env": env, "before": before}) + "\n")
    server.stdin.flush()
    pid = int(server.stdout.readline())
    return Process(pid, log, folder / f"exit_{pid}")


@cache
def _server() -> "subprocess.Popen[str]":
    """Start the process that has imported everything; it ends with this one."""
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}  # more threads would only be in the way
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    atexit.register(server.kill)
    return server


def _serve() -> None:
    """Fork a run for each line of the input, and write down how each ends."""
    for module in ("cli", "fit"):
        importlib.import_module(f"cifar_lit.{module}")  # so that the runs need not import anything
    folders: dict[int, str] = {}
    while True:
        if select.select([sys.stdin], [], [], 0.02)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            wanted = json.loads(line)
            pid = os.fork()
            if not pid:
                _become(wanted)
            folders[pid] = wanted["folder"]
            print(pid, flush=True)
        while folders:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            Path(folders.pop(pid), f"exit_{pid}").write_text(str(os.waitstatus_to_exitcode(status)))


def _become(wanted: dict[str, Any]) -> None:
    """Turn this fork into a run."""
    code = 70
    try:
        os.setsid()
        os.chdir(wanted["folder"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        out = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number, file in enumerate((nothing, out, out)):
            os.dup2(file, number)
        os.environ.update(wanted["env"])
        sys.argv = ["fit", *wanted["args"]]
        if wanted["before"]:
            module, _, function = wanted["before"].partition(":")
            getattr(importlib.import_module(module), function)()
        from cifar_lit import fit

        fit.main(wanted["args"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
