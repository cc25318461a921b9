"""Start runs of `python -m cifar_lit.fit` without waiting for imports: fork them from a process that has imported it.

This file is also that process: run as a program, it reads the runs to start from its standard input, one a line.
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


@dataclass
class Process:
    """A run's process, which leads its own session together with its workers.

    Attributes:
        pid: Process id.
        log: File with its output.
        exit_file: File that its exit code is written to.
    """

    pid: int
    log: Path
    exit_file: Path

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        try:
            return int(self.exit_file.read_text())
        except (FileNotFoundError, ValueError):  # not created or not written yet
            return None

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal; SIGKILL and SIGINT also to its workers, as the system and a terminal do."""
        if self.poll() is None:
            try:
                (os.killpg if signum in (signal.SIGKILL, signal.SIGINT) else os.kill)(self.pid, signum)
            except ProcessLookupError:  # it has just ended
                pass


class Group:
    """The processes of one run.

    Args:
        processes: One or more; the first has rank 0.
    """

    def __init__(self, processes: Sequence[Process]) -> None:
        self.processes = processes

    @property
    def exit_code(self) -> int | None:
        """The first non-zero exit code, else 0; None while a process runs."""
        codes = [process.poll() for process in self.processes]
        return None if None in codes else next((code for code in codes if code), 0)

    @property
    def output(self) -> str:
        """Output of all processes."""
        logs = dict.fromkeys(process.log for process in self.processes)
        return "".join(log.read_text(errors="replace") for log in logs)

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, or None if a process still runs after `seconds`."""
        end = time.monotonic() + seconds
        while self.exit_code is None and time.monotonic() < end:
            time.sleep(0.02)
        return self.exit_code

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to all processes."""
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
    """Start a run in a folder.

    Args:
        args: Command-line arguments of `cifar_lit.fit`.
        folder: Working directory, created if needed.
        processes: Number of processes; they share a log.
        env: Additional environment variables.
        before: `module:function` in this folder, called first in each process to inject a fault.
        machines: Whether each process represents a machine, with a folder of its own.
    """
    if processes == 1:
        return Group([_start(args, folder, env or {}, before)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared_env = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "TORCHELASTIC_RUN_ID": "inject_faults",  # Lightning detects torchrun by this variable
        **(env or {}),
    }
    nodes, devices = (processes, 1) if machines else (1, processes)
    shared_env["GROUP_WORLD_SIZE"] = str(nodes)
    args = [*args, "--trainer.accelerator", "cpu", "--trainer.devices", str(devices)]
    args += ["--trainer.num_nodes", str(nodes)]
    started = []
    for rank in range(processes):
        node, local_rank = divmod(rank, devices)
        ranks = {"RANK": rank, "LOCAL_RANK": local_rank, "GROUP_RANK": node, "LOCAL_WORLD_SIZE": devices}
        process_env = {**shared_env, **{name: str(value) for name, value in ranks.items()}}
        started.append(_start(args, folder / f"machine_{node}" if node else folder, process_env, before))
    return Group(started)


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
    """Start the server process; it ends with this process."""
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )

    def stop() -> None:
        server.kill()
        server.communicate()

    atexit.register(stop)
    return server


def _serve() -> None:
    """Fork a run for each line of standard input, and write the exit code of each run to a file."""
    for module in ("cifar_lit.cli.options", "cifar_lit.fit"):
        importlib.import_module(module)
    folders: dict[int, str] = {}
    while True:
        if select.select([sys.stdin], [], [], 0.02)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            pid = os.fork()
            if not pid:
                _become_run(request)
            folders[pid] = request["folder"]
            print(pid, flush=True)
        while folders:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            Path(folders.pop(pid), f"exit_{pid}").write_text(str(os.waitstatus_to_exitcode(status)))


def _become_run(request: dict[str, Any]) -> None:
    """Turn this forked process into a run; never return."""
    exit_code = 70
    try:
        os.setsid()
        os.chdir(request["folder"])
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, file in enumerate((null, log, log)):
            os.dup2(file, descriptor)
        os.environ.update(request["env"])
        sys.argv = ["fit", *request["args"]]
        if request["before"]:
            module, _, function = request["before"].partition(":")
            getattr(importlib.import_module(module), function)()
        from cifar_lit import fit

        fit.main(request["args"])
        exit_code = 0
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


if __name__ == "__main__":
    _serve()
