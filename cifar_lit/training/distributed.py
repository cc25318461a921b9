"""Several training processes: start them, connect them, and end all when one dies."""

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy, Strategy, StrategyRegistry
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, but not exported explicitly

from cifar_lit.data.workers import worker_failure
from cifar_lit.training import torchrun
from cifar_lit.utils import slurm
from cifar_lit.utils.errors import RunError, out_of_memory
from cifar_lit.utils.output import write_stderr

RESUME = "CIFAR_LIT_RESUME"  # environment variable of a child: the run to resume, chosen by its parent, or empty
RENDEZVOUS = "CIFAR_LIT_RENDEZVOUS"  # environment variable: the file in which the processes find each other
GRACE_S = 30  # for a process to fail by itself after another one has died


def set_timeout(timeout: timedelta) -> None:
    """Set how long a process of the strategy `ddp`, and so of `auto`, waits for another one."""
    StrategyRegistry.register("ddp", DDPStrategy, override=True, timeout=timeout)


def start_processes(strategy: Strategy, args: Sequence[str], timeout: timedelta, run: Path | None) -> None:
    """Start the other processes of this machine, unless torchrun or srun has; connect those of a single machine.

    Lightning's launcher would kill this process without a message when another one dies.

    Args:
        strategy: The strategy of a trainer that has not been fitted.
        args: Command-line arguments of the processes; in a notebook or script, not those of this process.
        timeout: How long to wait for another process.
        run: The run that all processes resume.

    Raises:
        RunError: The port on which they would meet is in use.
    """
    if not isinstance(strategy, DDPStrategy):
        return
    environment = strategy.cluster_environment
    if isinstance(environment, LightningEnvironment) and not environment.creates_processes_externally:
        folder = tempfile.mkdtemp(prefix="cifar_lit_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[RENDEZVOUS] = os.path.join(folder, "rendezvous")
        os.environ["LOCAL_RANK"] = "0"  # keeps Lightning from starting any itself
        command = [sys.executable, "-m", "cifar_lit.fit", *args]
        resume = str(run or "")
        children = [
            subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(rank), RESUME: resume})
            for rank in range(1, strategy.num_processes)
        ]
        threading.Thread(target=watch_children, args=(children,), daemon=True).start()
    if isinstance(environment, SLURMEnvironment) and slurm.in_step():  # Lightning's port depends on the job only
        port = 15_000 + (31 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])) % 10_000
        os.environ.setdefault("MASTER_PORT", str(port))
    init_rendezvous(strategy, timeout)


def disconnect() -> None:
    """Undo `start_processes` in the process that called it, so that it can train again."""
    if RENDEZVOUS in os.environ and not is_child():
        del os.environ[RENDEZVOUS], os.environ["LOCAL_RANK"]
        if dist.is_initialized():
            dist.destroy_process_group()
            atexit.unregister(dist.destroy_process_group)


def init_rendezvous(strategy: DDPStrategy, timeout: timedelta) -> None:
    """Connect the processes of one machine, on localhost only, or those of torchrun; Lightning connects others.

    Lightning's default is torch's TCPStore, which listens on all network interfaces.
    """
    one_machine = strategy.num_nodes == 1
    if one_machine:
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    # gloo ignores its timeout if another process dies or stops at certain moments while they connect.
    watchdog = threading.Timer(timeout.total_seconds() + 5, _exit, ["another training process does not answer"])
    watchdog.daemon = True
    watchdog.start()
    try:
        _init_process_group(strategy, timeout, one_machine)
    finally:
        watchdog.cancel()


def _init_process_group(strategy: DDPStrategy, timeout: timedelta, one_machine: bool) -> None:
    rank, world_size = strategy.global_rank, strategy.num_nodes * strategy.num_processes
    if RENDEZVOUS in os.environ and one_machine:
        meet: dict[str, Any] = {"init_method": f"file://{os.environ[RENDEZVOUS]}"}
    elif isinstance(strategy.cluster_environment, SLURMEnvironment) and one_machine:
        port = strategy.cluster_environment.main_port
        meet = {"store": localhost_store(port, rank, world_size, timeout)}
    elif store := torchrun.store_of_attempt(rank, world_size, timeout):
        meet = {"store": store}
    else:
        return
    device = strategy.root_device
    dist.init_process_group(
        strategy.process_group_backend or ("nccl" if device.type == "cuda" else "gloo"),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
        **meet,
    )
    if device.type == "cuda":
        atexit.register(dist.destroy_process_group)  # as Lightning does for its own


def localhost_store(port: int, rank: int, world_size: int, timeout: timedelta) -> TCPStore:
    """Return a store in which processes of one machine meet; that of rank 0 listens on this port of localhost only.

    Raises:
        RunError: The port is in use.
    """
    if rank:
        return TCPStore("127.0.0.1", port, world_size, is_master=False, timeout=timeout)
    try:
        listening = socket.create_server(("127.0.0.1", port)).detach()
    except OSError as error:
        raise RunError(
            f"the training processes cannot use port {port} for their rendezvous ({error}); set MASTER_PORT"
        ) from None
    return TCPStore("127.0.0.1", port, world_size, is_master=True, timeout=timeout, master_listen_fd=listening)


def watch_children(children: "Sequence[subprocess.Popen[Any]]", grace_s: float = GRACE_S) -> None:
    """Wait for all children; if one fails, give this process some time to fail by itself, then end it and the others.

    Without it, a child that dies before it connects would be noticed only after the timeout.
    """
    while not (failed := [child for child in children if child.poll()]):
        if all(child.returncode == 0 for child in children):
            return
        time.sleep(1)
    time.sleep(grace_s)
    for child in children:
        child.kill()
    code = failed[0].returncode
    _exit(f"another training process has died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")


def end_with_parent() -> None:
    """Watch the process that has started this one, if that is torchrun or another training process."""
    if is_child() or dist.is_torchelastic_launched():
        threading.Thread(target=watch_parent, args=(os.getppid(),), daemon=True).start()


def watch_parent(parent: int, grace_s: float = GRACE_S) -> None:
    """Wait until the parent has died; then save and stop as after SIGTERM, or end if that is impossible.

    Args:
        parent: Process id of the parent.
        grace_s: Seconds for the step and its checkpoint.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    _exit("the process that started this one has died")


def _exit(message: str) -> NoReturn:
    write_stderr(f"\nerror: {message}; --ckpt_path last resumes the training\n")
    os._exit(1)  # the main thread hangs


def is_child() -> bool:
    """Return whether `start_processes` of another process has started this one."""
    return RESUME in os.environ


def run_of_parent() -> Path | None:
    """Return the run that the parent of this process resumes, if it does."""
    run = os.environ[RESUME]
    return Path(run) if run else None


def launched() -> tuple[str, int, int] | None:
    """Return what has started this process, with how many processes, and on how many machines; None if nothing has."""
    if dist.is_torchelastic_launched():
        return "torchrun", int(os.environ["WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    if slurm.in_step():
        return "srun", int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)), int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    return None


def cause_of(error: RuntimeError) -> str | None:
    """Return the message for an error caused by lack of memory or by another process; None for other errors."""
    text = " ".join(str(error).split())
    if problem := out_of_memory(error):
        return f"{problem}; reduce data.batch_size or data.image_size"
    if reason := worker_failure(error):
        return reason
    if isinstance(error, dist.DistError) or re.search(r"(?i)connection (closed|reset|refused)|timed? ?out", text):
        return f"another training process has died or does not answer (process_timeout): {text[:200]}"
    return None
