"""What the machine can do, and what a run should note about it."""

import ctypes
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]
Device = Literal["cuda", "mps", "cpu"]
Bfloat16Unit = Literal["AMX", "AVX512_BF16"]
PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "albumentations",
    "opencv-python-headless",
    "jsonargparse",
    "numpy",
    "matplotlib",
    "tensorboard",
    "grad-cam",
)


def choose_device(accelerator: str) -> Device:
    """Return what Lightning trains on.

    Args:
        accelerator: As in `Trainer(accelerator=...)`.
    """
    automatic = accelerator in ("auto", "gpu")
    if accelerator == "cuda" or (automatic and torch.cuda.is_available()):
        return "cuda"
    if accelerator == "mps" or (automatic and torch.backends.mps.is_available()):
        return "mps"
    return "cpu"


def choose_precision(device: Device, smallest: int) -> tuple[Precision, str]:
    """Return the fastest safe precision of a device, and the reason in a few words.

    Args:
        device: What is trained on.
        smallest: Height and width in px of the smallest maps that a strided convolution gets.
    """
    if device == "cuda":
        if not torch.cuda.is_available():
            return "32-true", "no CUDA device"  # Lightning refuses with its own message
        name = torch.cuda.get_device_name()
        if torch.cuda.get_device_capability() >= (8, 0):
            return "bf16-mixed", name
        return "16-mixed", f"{name}, older than Ampere"
    if device == "mps":
        return "32-true", "Apple GPU"
    threads = f"{torch.get_num_threads()} threads"
    unit = bfloat16_unit()
    if unit and corrupts_bfloat16_gradients(device, smallest):
        return "32-true", f"CPU with {unit}, but the images are too small for it, {threads}"
    if unit:
        return "bf16-mixed", f"CPU with {unit}, {threads}"
    return "32-true", f"CPU without AMX or AVX512_BF16, {threads}"


def corrupts_bfloat16_gradients(device: Device, smallest: int) -> bool:
    """Tell whether gradients in bfloat16 would be wrong.

    oneDNN's kernels for AVX-512 leave those weights' gradients unwritten that meet nothing but padding when a 3x3
    convolution of stride 2 gets maps of 1 px: whatever lay in memory, nan too, goes into the weights (torch 2.15).

    Args:
        device: What is trained on.
        smallest: Height and width in px of the smallest maps that a strided convolution gets.
    """
    return device == "cpu" and smallest < 2 and bool(getattr(torch.cpu, "_is_avx512_supported", bool)())


def bfloat16_unit() -> Bfloat16Unit | None:
    """Return what in the CPU's hardware multiplies bfloat16: Intel's matrices, or vectors; None where nothing does."""
    # torch says so only in private functions; where those have gone, float32 is the safe answer
    if getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return "AMX"
    if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        return "AVX512_BF16"
    return None


def available_cores() -> int:
    """Return how many cores this process may use: all, or what affinity, a container or SLURM leaves of them."""
    from joblib import cpu_count  # knows of affinity and containers

    cores: int = cpu_count()
    return min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK", cores)))


def slurm_job() -> str | None:
    """Return the SLURM job that this process belongs to, `ARRAY_TASK` for a part of an array; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def keep_freed_memory() -> None:
    """Keep freed memory for the next step, where glibc would give it back and get it anew, zeroed, page by page.

    Makes a training step on a CPU several percent faster (BENCHMARKS.md). See mallopt(3); does nothing elsewhere.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold, most = -1, -3, 2**30
        libc = ctypes.CDLL(None)
        if libc.mallopt(mmap_threshold, most):  # else the other alone would make it worse
            libc.mallopt(trim_threshold, most)


def describe(gpus: Sequence[int] | None = None) -> dict[str, object]:
    """Return what somebody needs to repeat a run: command, commit, versions, hardware.

    Args:
        gpus: The numbers of the CUDA GPUs that it used; None for all.
    """
    job = {"slurm_job": slurm_job()} if slurm_job() else {}
    devices = [torch.cuda.get_device_name(i) for i in (range(torch.cuda.device_count()) if gpus is None else gpus)]
    return {
        "command": command(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpus": devices,
        **job,
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def command(module: str = "fit") -> str:
    """Return the command line of this process, which runs one of the package's modules."""
    return " ".join([f"python -m cifar_lit.{module}", *sys.argv[1:]])


def repeatable(module: str, *args: str) -> str:
    """Return a command line that works where this process was started: with the whole path of a Python not on PATH."""
    found = shutil.which("python")
    python = "python" if found and os.path.abspath(found) == os.path.abspath(sys.executable) else sys.executable
    return shlex.join([python, "-m", f"cifar_lit.{module}", *args])


def _commit() -> str | None:
    """Return the commit of this project's checkout, marked where files were changed; None outside of one."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
        )
    except OSError:  # no git
        return None
    return found.stdout.strip() or None


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
