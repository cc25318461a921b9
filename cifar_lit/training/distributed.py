"""Several training processes: how they find each other, and what to say when one of them is gone."""

import atexit
import json
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
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed as dist

RENDEZVOUS = "CIFAR_LIT_RENDEZVOUS"  # the environment variable that tells the other processes the file
START = "CIFAR_LIT_START"  # this one from which run and checkpoint to go on
PARENT = "CIFAR_LIT_FIRST"  # and this one the process number of the first
GRACE = 30  # seconds for a process to notice by itself that another one has died, and to end as it should


class LocalDDPStrategy(DDPStrategy):
    """DDP that listens on localhost only where all processes are on this machine: they meet in a file.

    torch's own way listens for the others on every network interface.
    """

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_distributed(self) -> None:
        """Meet the other processes."""
        meeting = started_by_lightning(self) and self.num_nodes == 1 and RENDEZVOUS in os.environ
        if meeting and not dist.is_initialized():  # by the learning-rate finder
            self.set_world_ranks()
            on_gpus = self.root_device.type == "cuda"
            loopback = "lo0" if sys.platform == "darwin" else "lo"
            for backend in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{backend}_SOCKET_IFNAME", loopback)
            dist.init_process_group(
                self.process_group_backend or ("nccl" if on_gpus else "gloo"),
                init_method=f"file://{os.environ[RENDEZVOUS]}",
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self._timeout,
                device_id=self.root_device if on_gpus else None,
            )
            if on_gpus:
                atexit.register(dist.destroy_process_group)  # as Lightning does, which finds it initialised
        super().setup_distributed()


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine as Lightning does, but ends with a word when one of them dies.

    Lightning's first process kills itself then, often before it could say or finish anything.
    """

    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        threading.Thread(target=watch_children, args=(self.procs,), daemon=True).start()
        self.procs = []  # for Lightning's observer, which begins next


def watch_children(others: "Sequence[subprocess.Popen[Any]]", grace: float = GRACE) -> None:
    """End this process with a word, and the others, if one of them fails and this one hangs on for all that."""
    while not (failed := [one for one in others if one.poll()]):
        if all(one.returncode == 0 for one in others):
            return
        time.sleep(1)
    time.sleep(grace)  # a thread's sleep: it ends with the process
    code = failed[0].returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    os.write(2, f"\nerror: another training process has died ({how}); --ckpt_path last goes on\n".encode())
    for one in others:
        one.kill()
    os._exit(1)


def watch_parent(first: int, grace: float = GRACE) -> None:
    """End this process with a word if the first one, its parent, is gone and this one hangs on for all that.

    gloo waits for ever for a process that dies while they meet, past the time limit.
    """
    while os.getppid() == first:
        time.sleep(1)
    time.sleep(grace)
    os.write(2, b"\nerror: the first training process is gone; --ckpt_path last goes on\n")
    os._exit(1)


def use_local_ddp(timeout: timedelta) -> None:
    """Let `ddp`, which is also what `auto` takes for several processes, be ours, and its two variants."""
    StrategyRegistry.register("ddp", LocalDDPStrategy, override=True, timeout=timeout)
    for name, unused in (("true", True), ("false", False)):
        name = f"ddp_find_unused_parameters_{name}"
        StrategyRegistry.register(name, LocalDDPStrategy, override=True, timeout=timeout, find_unused_parameters=unused)


def init_rendezvous(*start: Path | None) -> None:
    """Choose the file, in the first process, before it starts the others, and tell them where to go on.

    The others watch the first from here on.
    """
    if PARENT in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        if os.name == "posix":  # elsewhere a process keeps its parent's number
            threading.Thread(target=watch_parent, args=(int(os.environ[PARENT]),), daemon=True).start()
    elif "LOCAL_RANK" not in os.environ:  # by which the others know that they are not the first
        os.environ[PARENT] = str(os.getpid())
        os.environ[START] = json.dumps([path and str(path) for path in start])
        folder = tempfile.mkdtemp(prefix="cifar_lit_")  # a new one: an earlier run's file would lead nowhere
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[RENDEZVOUS] = os.path.join(folder, "meeting")


def resume_from_env() -> list[Path | None] | None:
    """Return where the first process told this one to go on; a search of its own might find a run begun since."""
    if os.environ.get("LOCAL_RANK", "0") == "0" or START not in os.environ:  # Lightning sets it in the first one later
        return None
    return [path and Path(path) for path in json.loads(os.environ[START])]


def started_by_lightning(strategy: object) -> bool:
    """Tell whether the first process starts the others, and not torchrun or SLURM."""
    return isinstance(strategy, DDPStrategy) and isinstance(strategy.cluster_environment, LightningEnvironment)


def cause_of(error: RuntimeError) -> str | None:
    """Say which process's end, or what want of memory, is behind an error; None if it is none of those."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"not enough memory ({text[:200]}); a smaller data.batch_size or data.image_size needs less"
    if "DataLoader worker" in text:
        return (
            f"a process that prepares images has died ({text[:200]}), perhaps for want of memory: fewer of them "
            "(--data.num_workers) need less"
        )
    if isinstance(error, dist.DistError) or re.search(r"(?i)connection (closed|reset|refused)|timed? ?out", text):
        return f"another training process has died or does not answer (process_timeout): {text[:200]}"
    return None
