"""The machine: device, precision, cores, batch size, and a description for the provenance of a run."""

import ctypes
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from cifar_lit import __version__
from cifar_lit.utils import slurm
from cifar_lit.utils.text import counted

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]
Device = Literal["cuda", "mps", "cpu"]
MAX_EVAL_BATCH = 256
MAX_EVAL_PIXELS = 2**20  # per batch: the default network keeps 256 bytes of each in its first layers
PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "torchmetrics", "albumentations", "opencv-python-headless"),
    *("jsonargparse", "numpy", "matplotlib", "tensorboard", "grad-cam"),
)


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


def command() -> str:
    """Return the command line of this process: of a module of this package, a script or a notebook."""
    spec = sys.modules["__main__"].__spec__  # None for a script
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    return shlex.join(["python", *program, *sys.argv[1:]])


def repeatable(module: str, *args: str, processes: bool = False) -> str:
    """Return a command line that a user can paste: with the full path of this Python if it is not the one on PATH.

    Args:
        module: Of this package.
        args: Its arguments.
        processes: Whether to start as many processes as this one belongs to, if srun or torchrun has started it.
    """
    launcher, env = [_program("python", sys.executable)], os.environ
    if processes and "TORCHELASTIC_RUN_ID" in env:
        nodes = env.get("GROUP_WORLD_SIZE", "1")
        launcher = [_program("torchrun", os.path.join(os.path.dirname(sys.executable), "torchrun"))]
        launcher += ["--nnodes", nodes, "--nproc-per-node", env["LOCAL_WORLD_SIZE"]]
        launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{env['MASTER_ADDR']}:29500"] * (nodes != "1")
    if processes and slurm.in_step():
        nodes, tasks = (env.get(f"SLURM_STEP_NUM_{what}", "1") for what in ("NODES", "TASKS"))
        launcher = ["srun", "--nodes", nodes, "--ntasks", tasks, *launcher]
    return shlex.join([*launcher, "-m", f"cifar_lit.{module}", *args])


def _program(name: str, path: str) -> str:
    """Return the name of a program if PATH finds it at this path, else the path."""
    found = shutil.which(name)
    return name if found and os.path.abspath(found) == os.path.abspath(path) else path


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
