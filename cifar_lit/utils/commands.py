"""Command lines: that of this process, and those that a message tells the user to run."""

import os
import shlex
import shutil
import sys

from cifar_lit.utils import slurm


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
