"""The folders of a recipe's runs, `lightning_logs/RECIPE/version_N`: create, find, lock, remove."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cifar_lit.utils.errors import UsageError


def versions(runs: Path) -> list[Path]:
    """Return the `version_N` folders of a recipe, the newest last."""
    found = [path for path in runs.glob("version_*") if re.fullmatch(r"version_\d+", path.name)]
    return sorted(found, key=number)


def number(run: Path) -> int:
    """Return the N of `version_N`."""
    return int(run.name.removeprefix("version_"))


def unfinished(runs: Path) -> Path | None:
    """Return the newest run if it ended before its first checkpoint, else None."""
    for newest in versions(runs)[-1:]:
        if not (newest / "checkpoints" / "last.ckpt").exists() and not (newest / "report").exists():
            return newest
    return None


def requeued(runs: Path, job: str | None, command: str) -> Path | None:
    """Return the run that this SLURM job started with the same command before it was requeued, else None."""
    if not job or int(os.environ.get("SLURM_RESTART_COUNT", 0)) == 0:
        return None
    for run in reversed(versions(runs)):
        for file in run.glob("provenance*.json"):  # one for each time that it was resumed
            with suppress(OSError, ValueError):  # another job may be writing it
                provenance = json.loads(file.read_text(encoding="utf-8"))
                if (provenance.get("slurm_job"), provenance.get("command")) == (job, command):
                    return run
    return None


def find(path: str, runs: Path) -> Path:
    """Return the run in a folder.

    Raises:
        UsageError: It is not a run of this recipe.
    """
    run = Path(path).resolve()
    if run not in [version.resolve() for version in versions(runs)]:
        raise UsageError(
            f"--ckpt_path {path}: this folder is not a run of this recipe, whose runs are in {runs}; use one of them "
            "(or another --config), a .ckpt file, last or best"
        )
    return runs / run.name


def create(runs: Path) -> Path:
    """Create and return the folder of a new run; simultaneous calls return different ones."""
    while True:
        taken = versions(runs)
        run = runs / f"version_{number(taken[-1]) + 1 if taken else 0}"
        with suppress(FileExistsError):
            run.mkdir(parents=True)
            return run


def remove(run: Path) -> None:
    """Remove the folder of a run that did not start, and its parents if they are empty."""
    shutil.rmtree(run)
    with suppress(OSError):  # not empty
        run.parent.rmdir()
        run.parent.parent.rmdir()


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Lock the folder against training in other processes.

    Raises:
        UsageError: Another process has locked it.
    """
    file = FileLock(run / ".lock", blocking=False)
    try:
        file.acquire()
    except Timeout:
        raise UsageError(
            f"{run} is being trained by another process; wait until it has ended, or start a new run without "
            "--ckpt_path last"
        ) from None
    try:
        yield
    finally:
        file.release()
