"""Where a training begins: anew, or at a checkpoint, perhaps in the folder of its run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.training import checkpoint_files
from cifar_lit.training import run_folder as runs
from cifar_lit.utils import hardware
from cifar_lit.utils.errors import UsageError


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
        return checkpoint_files.read(self.file) if self.file else {}

    @property
    def goes_on(self) -> bool:
        """Whether the checkpoint is the run's own; a run can begin from another one's."""
        return self.run is not None and self.file is not None and self.run in self.file.parents

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
        return Start(file=checkpoint_files.find(ckpt_path, folder) if ckpt_path else None)
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file():
        rank_zero_info(f"going on with {run}")
        return Start(run, last)
    file = _begun_from(run)
    rank_zero_info(f"going on with {run}, which has no checkpoint yet: from {file or 'the start'}")
    return Start(run, file)


def check_source(run: Path, source: str) -> None:
    """Refuse to go on with a run on other data, before those are loaded or downloaded."""
    before = _config(run).get("data", {}).get("source", source)
    if source != before:
        raise UsageError(
            f"data.source={source}: {run} was trained with data.source={before}; go on with the same options as "
            f"before, which are in {run / 'config.yaml'}"
        )


def _run(ckpt_path: str | None, folder: Path) -> Path | None:
    """Return the run that `--ckpt_path` names; None where it names a file or nothing."""
    if ckpt_path == "last":
        return runs.unfinished(folder) or checkpoint_files.find(ckpt_path, folder).parent.parent
    return runs.find(ckpt_path, folder) if ckpt_path and Path(ckpt_path).is_dir() else None


def _begun_from(run: Path) -> Path | None:
    """Return the checkpoint that a run began from, None for one that began anew."""
    given = _config(run).get("ckpt_path")
    return checkpoint_files.find(given, run.parent) if given and given != "last" and not Path(given).is_dir() else None


def _config(run: Path) -> dict[str, Any]:
    file = run / "config.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
