"""What is needed to repeat a run: command, commit, versions, hardware."""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from cifar_lit import __version__
from cifar_lit.utils import slurm
from cifar_lit.utils.commands import command

PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "torchmetrics", "albumentations", "opencv-python-headless"),
    *("jsonargparse", "numpy", "matplotlib", "tensorboard", "grad-cam"),
)


def describe(gpus: Sequence[int] | None = None) -> dict[str, object]:
    """Return what is needed to repeat a run: command, commit, versions, hardware.

    Args:
        gpus: Indices of the CUDA devices in use; None for all.
    """
    indices = range(torch.cuda.device_count()) if gpus is None else gpus
    return {
        "command": command(),
        "folder": os.getcwd(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in indices],
        **({"slurm_job": slurm.job()} if slurm.job() else {}),
        "cifar_lit": __version__,
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _commit() -> str | None:
    """Return the commit of this project's checkout, with `-dirty` if files are changed; None outside of a checkout."""
    # A checkout of another user, as when it is mounted into a container, is refused: git runs programs that its config
    # names. But this code itself is from there.
    git = ["git", "-c", "safe.directory=*", "-C", str(Path(__file__).parent)]
    try:
        # An installed package may lie in the checkout of another project, which does not track this file.
        if subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True).returncode:
            return None
        found = subprocess.run([*git, "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True)
        return found.stdout.strip() or None
    except OSError:  # git is not installed
        return None


def _cpu() -> str:
    """Return the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return name[1] if name else platform.processor() or platform.machine()
