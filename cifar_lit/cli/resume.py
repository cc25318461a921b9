"""Where a training starts: `--ckpt_path` turned into a run and a checkpoint."""

from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.training import checkpoint_files, run_folder
from cifar_lit.training.run import Start
from cifar_lit.utils import hardware
from cifar_lit.utils.errors import UsageError


def find(ckpt_path: str | None, runs: Path) -> Start:
    """Find where a training starts; a job that SLURM requeued resumes its run, whatever its `--ckpt_path`.

    Args:
        ckpt_path: A run's folder, a file, `last`, `best` or None.
        runs: Folder of the recipe's runs, `lightning_logs/RECIPE`.

    Raises:
        UsageError: There is no such run or file.
    """
    run = run_folder.requeued(runs, hardware.slurm_job(), hardware.command()) or _find_run(ckpt_path, runs)
    if not run:
        return Start(file=checkpoint_files.find(ckpt_path, runs) if ckpt_path else None)
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file():
        rank_zero_info(f"resuming {run}")
        return Start(run, last)
    file = _first_checkpoint(run)
    rank_zero_info(f"resuming {run}, which has no checkpoint yet, from {file or 'the first step'}")
    return Start(run, file)


def check_source(run: Path, source: str) -> None:
    """Refuse to resume a run on other data, before they are loaded or downloaded."""
    before = _config(run).get("data", {}).get("source", source)
    if source != before:
        raise UsageError(
            f"data.source={source}: {run} was trained with data.source={before}; resume with the same options as "
            f"before, which are in {run / 'config.yaml'}"
        )


def _find_run(ckpt_path: str | None, runs: Path) -> Path | None:
    """Return the run that `--ckpt_path` names; None if it names a file or nothing."""
    if ckpt_path == "last":
        return run_folder.unfinished(runs) or checkpoint_files.find(ckpt_path, runs).parent.parent
    return run_folder.find(ckpt_path, runs) if ckpt_path and Path(ckpt_path).is_dir() else None


def _first_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint that a run started from, None for the first step."""
    given = _config(run).get("ckpt_path")
    return checkpoint_files.find(given, run.parent) if given and given != "last" and not Path(given).is_dir() else None


def _config(run: Path) -> dict[str, Any]:
    file = run / "config.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
