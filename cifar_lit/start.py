"""Where a training begins: anew, or at a checkpoint, perhaps in the folder of its run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from cifar_lit import checkpoints, hardware, runs


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes:
        run: The run whose folder is used again; None for a new one.
        file: The checkpoint that is gone on from; None for the first step.
    """

    run: Path | None = None
    file: Path | None = None

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The checkpoint, loaded without running code from it; empty for the first step."""
        return checkpoints.read(self.file) if self.file else {}

    @property
    def step(self) -> int:
        """How many optimizer steps are done."""
        return int(self.checkpoint.get("global_step", 0))


def find(ckpt_path: str | None, folder: Path) -> Start:
    """Turn `--ckpt_path` into where to begin; a job that SLURM starts again goes on with its run, whatever it names.

    Args:
        ckpt_path: A run's folder, a file, `last`, `best` or None.
        folder: That of the recipe's runs, `lightning_logs/RECIPE`.

    Raises:
        UsageError: There is no such run or file.
    """
    run = runs.requeued(folder, hardware.slurm_job(), hardware.command()) or _run(ckpt_path, folder)
    if not run:
        return Start(file=checkpoints.find(ckpt_path, folder) if ckpt_path else None)
    last = run / "checkpoints" / "last.ckpt"
    there = last.is_file()
    rank_zero_info(f"going on with {run}" + ("" if there else ", which has no checkpoint yet: from the start"))
    return Start(run, last if there else None)


def _run(ckpt_path: str | None, folder: Path) -> Path | None:
    """Return the run that `--ckpt_path` names; None where it names a file or nothing."""
    if ckpt_path == "last":
        return runs.unfinished(folder) or checkpoints.find(ckpt_path, folder).parent.parent
    return runs.named(ckpt_path, folder) if ckpt_path and Path(ckpt_path).is_dir() else None
