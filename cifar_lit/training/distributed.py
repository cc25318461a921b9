"""Several training processes: start them, connect them, and end all when one dies."""

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, Strategy, StrategyRegistry
from torch import distributed as dist

from cifar_lit.data.loaders import worker_failure
from cifar_lit.utils.output import write_stderr

RESUME = "CIFAR_LIT_RESUME"  # environment variable of a child: the run to resume, chosen by its parent, or empty
RENDEZVOUS = "CIFAR_LIT_RENDEZVOUS"  # environment variable: the file in which the processes find each other
GRACE_S = 30  # for a process to fail by itself after another one has died


def set_timeout(timeout: timedelta) -> None:
    """Set how long a process of the strategy `ddp`, and so of `auto`, waits for another one."""
    StrategyRegistry.register("ddp", DDPStrategy, override=True, timeout=timeout)


def start_processes(strategy: Strategy, timeout: timedelta, run: Path | None) -> None:
    """Start the other processes of this machine and connect with them; does nothing under torchrun or SLURM.

    Lightning's launcher would kill this process without a message when another one dies.

    Args:
        strategy: The strategy of a trainer that has not been fitted.
        timeout: How long to wait for another process.
        run: The run that all processes resume.
    """
    if not (isinstance(strategy, DDPStrategy) and isinstance(strategy.cluster_environment, LightningEnvironment)):
        return
    if not strategy.cluster_environment.creates_processes_externally:
        folder = tempfile.mkdtemp(prefix="cifar_lit_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[RENDEZVOUS] = os.path.join(folder, "rendezvous")
        os.environ["LOCAL_RANK"] = "0"  # keeps Lightning from starting any itself
        command = [sys.executable, "-m", "cifar_lit.fit", *sys.argv[1:]]
        resume = str(run or "")
        children = [
            subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(rank), RESUME: resume})
            for rank in range(1, strategy.num_processes)
        ]
        threading.Thread(target=watch_children, args=(children,), daemon=True).start()
    if RENDEZVOUS in os.environ and strategy.num_nodes == 1:
        init_rendezvous(strategy, timeout)


def init_rendezvous(strategy: DDPStrategy, timeout: timedelta) -> None:
    """Connect the processes of one machine, on localhost only.

    Lightning's default is torch's TCPStore, which listens on all network interfaces.
    """
    for backend in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    # gloo ignores its timeout if another process dies or stops at certain moments while they connect.
    watchdog = threading.Timer(timeout.total_seconds() + 5, _exit, ["another training process does not answer"])
    watchdog.daemon = True
    watchdog.start()
    device = strategy.root_device
    dist.init_process_group(
        strategy.process_group_backend or ("nccl" if device.type == "cuda" else "gloo"),
        init_method=f"file://{os.environ[RENDEZVOUS]}",
        rank=strategy.local_rank,
        world_size=strategy.num_processes,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    watchdog.cancel()
    if device.type == "cuda":
        atexit.register(dist.destroy_process_group)  # as Lightning does for its own


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


def cause_of(error: RuntimeError) -> str | None:
    """Return the message for an error caused by lack of memory or by another process; None for other errors."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"not enough memory ({text[:200]}); reduce data.batch_size or data.image_size"
    if reason := worker_failure(error):
        return reason
    if isinstance(error, dist.DistError) or re.search(r"(?i)connection (closed|reset|refused)|timed? ?out", text):
        return f"another training process has died or does not answer (process_timeout): {text[:200]}"
    return None
