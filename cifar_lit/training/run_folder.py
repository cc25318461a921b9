"""The folders of a recipe's runs, `lightning_logs/RECIPE/version_N`: which one to use, and by one process at a time."""

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
    found = [(int(m[1]), path) for path in runs.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", path.name))]
    return [path for _, path in sorted(found)]


def number(run: Path) -> int:
    """Return the N of `version_N`."""
    return int(run.name.removeprefix("version_"))


def unfinished(runs: Path) -> Path | None:
    """Return the newest run if it was stopped before its first checkpoint, else None."""
    newest = versions(runs)[-1:]
    made = ("checkpoints/last.ckpt", "report")
    return newest[0] if newest and not any((newest[0] / one).exists() for one in made) else None


def requeued(runs: Path, job: str | None, command: str) -> Path | None:
    """Return the run that this SLURM job began with the same command before it was given back, else None."""
    if not job or int(os.environ.get("SLURM_RESTART_COUNT", 0)) == 0:
        return None
    for run in reversed(versions(runs)):
        for file in run.glob("provenance*.json"):  # one for each time that it was gone on with
            with suppress(OSError, ValueError):  # another job's run may be half written
                notes = json.loads(file.read_text(encoding="utf-8"))
                if (notes.get("slurm_job"), notes.get("command")) == (job, command):
                    return run
    return None


def named(path: str, runs: Path) -> Path:
    """Return the run that a folder is.

    Raises:
        UsageError: It is none of this recipe's.
    """
    run = Path(path)
    if run.resolve().parent != runs.resolve() or run.resolve() not in [one.resolve() for one in versions(runs)]:
        raise UsageError(
            f"--ckpt_path {path}: this folder is no run of this recipe, whose runs lie in {runs}; give one of them "
            "(or another --config), a .ckpt file, last or best"
        )
    return runs / run.resolve().name


def begin(runs: Path) -> Path:
    """Make and return the folder of a new run; of two that begin together each gets its own."""
    while True:
        taken = versions(runs)
        run = runs / f"version_{number(taken[-1]) + 1 if taken else 0}"
        with suppress(FileExistsError):
            run.mkdir(parents=True)
            return run


def give_back(run: Path) -> None:
    """Remove the folder of a run that did not begin after all, and those around it that hold nothing else."""
    shutil.rmtree(run)
    with suppress(OSError):  # not empty
        run.parent.rmdir()
        run.parent.parent.rmdir()


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep other processes from training in the same folder.

    Raises:
        UsageError: One does so already.
    """
    lock = FileLock(run / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"{run} is being trained by another process; wait until it has ended, or start a new run without "
            "--ckpt_path last"
        ) from None
    try:
        yield
    finally:
        lock.release()
