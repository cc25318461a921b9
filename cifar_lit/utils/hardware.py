"""The machine: device, precision, cores and memory, and the batch size that suits them."""

import ctypes
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from cifar_lit.utils.text import counted

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]
Device = Literal["cuda", "mps", "cpu"]
MAX_EVAL_BATCH = 256
MAX_EVAL_PIXELS = 2**20  # per batch: the default network keeps 256 bytes of each in its first layers


def choose_device(accelerator: str) -> Device:
    """Return the device that `Trainer(accelerator=...)` uses."""
    automatic = accelerator in ("auto", "gpu")
    if accelerator == "cuda" or (automatic and torch.cuda.is_available()):
        return "cuda"
    if accelerator == "mps" or (automatic and torch.backends.mps.is_available()):
        return "mps"
    return "cpu"


def choose_precision(device: Device, smallest: int, gpus: Sequence[int] = (0,)) -> tuple[Precision, str]:
    """Return the fastest safe precision on a device, and the reason in a few words.

    Args:
        device: The device.
        smallest: Height and width in px of the smallest input of a strided convolution.
        gpus: Indices of the CUDA devices in use.
    """
    if device == "cuda":
        if not gpus or not torch.cuda.is_available():
            return "32-true", "no CUDA device"  # Lightning raises its own error
        oldest = min(gpus, key=torch.cuda.get_device_capability)
        name = torch.cuda.get_device_name(oldest)
        if torch.cuda.get_device_capability(oldest) >= (8, 0):
            return "bf16-mixed", name
        return "16-mixed", f"{name}, older than Ampere"
    if device == "mps":
        return "32-true", "Apple GPU"
    threads = counted(torch.get_num_threads(), "thread")
    unit = bfloat16_unit()
    if unit is None:
        return "32-true", f"CPU without AMX or AVX512_BF16, {threads}"
    if corrupts_bfloat16_gradients(device, smallest):
        return "32-true", f"CPU with {unit}, but the images are too small for bfloat16, {threads}"
    return "bf16-mixed", f"CPU with {unit}, {threads}"


def corrupts_bfloat16_gradients(device: Device, smallest: int) -> bool:
    """Return whether bfloat16 gradients are incorrect; arguments as for `choose_precision`.

    If a 3x3 convolution of stride 2 gets an input of 1x1 px, oneDNN's AVX-512 kernels do not write the gradients of
    the weights that meet only padding: these contain arbitrary memory, such as nan (torch 2.15).
    """
    return device == "cpu" and smallest < 2 and bool(torch.cpu.get_capabilities().get("avx512_f"))


def bfloat16_unit() -> Literal["AMX", "AVX512_BF16"] | None:
    """Return the fastest bfloat16 instructions of the CPU; None if it has none."""
    features = torch.cpu.get_capabilities()
    if features.get("amx_tile"):
        return "AMX"
    return "AVX512_BF16" if features.get("avx512_bf16") else None


def eval_batch_size(image_size: int) -> int:
    """Return the batch size for evaluation, smaller for large images so that they fit into memory."""
    return max(1, min(MAX_EVAL_BATCH, MAX_EVAL_PIXELS // image_size**2))


def available_cores() -> int:
    """Return how many cores this process may use, as limited by affinity, container or SLURM."""
    from joblib import cpu_count  # respects affinity and containers

    cores: int = cpu_count()
    requested = os.environ.get("SLURM_CPUS_PER_TASK", "")  # empty in some interactive shells
    return min(cores, int(requested)) if requested.isdigit() else cores


def configure_torch() -> None:
    """Set what training and evaluation have in common: TF32 where the device supports it, and the number of threads."""
    torch.set_float32_matmul_precision("high")
    limit_threads()


def limit_threads(processes: int = 1) -> None:
    """Let torch use no more threads than there are cores; it ignores the CPU quota of a container.

    More of them would wait for each other most of the time. OMP_NUM_THREADS, if set, is kept.

    Args:
        processes: Processes on this machine; each gets an equal number of the cores.
    """
    threads = max(1, available_cores() // processes)
    if torch.get_num_threads() > threads and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
        if processes > 1:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # or Lightning sets its own number


@contextmanager
def limited_threads(processes: int) -> Iterator[None]:
    """Call `limit_threads`, and undo it at the end: a notebook may train again in one process."""
    threads, omp = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    limit_threads(processes)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if omp is None:
            os.environ.pop("OMP_NUM_THREADS", None)


def free_shared_memory() -> int | None:
    """Return the free bytes of `/dev/shm`, through which worker processes send tensors; None on a system without it."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system, which zeroes each page when it is reused.

    Makes a training step on a CPU several percent faster (docs/benchmarks.md). See mallopt(3); no effect elsewhere.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold, size = -1, -3, 2**30
        libc = ctypes.CDLL(None)
        if libc.mallopt(mmap_threshold, size):  # trim_threshold alone would make it slower
            libc.mallopt(trim_threshold, size)
