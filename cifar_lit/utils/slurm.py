"""The SLURM job that this process belongs to."""

import os
import re
import subprocess

SPECIAL_STEPS = 0xFFFFFFF0  # from this number on, steps that SLURM itself starts: a job's script, the shell of salloc


def job() -> str | None:
    """Return the id of the current job, `ARRAY_TASK` in a job array; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID") or None


def was_requeued() -> bool:
    """Return whether this job was started before."""
    return bool(job()) and os.environ.get("SLURM_RESTART_COUNT", "") not in ("", "0")


def in_step() -> bool:
    """Return whether srun has started this process; otherwise it belongs to a job script or an interactive shell."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < SPECIAL_STEPS


def requeue() -> str | None:
    """Requeue this job, which SLURM answers with SIGTERM; return the reason if it is refused."""
    try:
        result = subprocess.run(["scontrol", "requeue", str(job())], capture_output=True, text=True)
    except OSError as error:  # scontrol is not installed on this node
        return str(error)
    return None if result.returncode == 0 else " ".join(result.stderr.split()) or f"exit code {result.returncode}"


def tidy_variables() -> None:
    """Let Lightning recognize which processes srun has started, and how many on each node."""
    for name in [name for name, value in os.environ.items() if name.startswith("SLURM_") and not value]:
        del os.environ[name]  # as in some interactive shells
    if "SLURM_NTASKS" in os.environ and not in_step():
        os.environ["SLURM_JOB_NAME"] = "interactive"
    # SLURM itself sets it for --ntasks-per-node only, and then for each step of the job.
    elif equal := re.fullmatch(r"(\d+)(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        os.environ["SLURM_NTASKS_PER_NODE"] = equal[1]
