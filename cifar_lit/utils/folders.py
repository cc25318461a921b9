"""Folders for results: a new one each time, so that nothing is overwritten."""

import itertools
from pathlib import Path

from cifar_lit.utils.errors import UsageError


def new_folder(out: str | None, default: str, parent: Path = Path()) -> Path:
    """Return the folder that `--out` names, or the first `DEFAULT_N` that does not exist; it is not made yet.

    Raises:
        UsageError: `--out` names something that is there already and is not an empty folder.
    """
    if out is None:
        return next(folder for n in itertools.count(1) if not (folder := parent / f"{default}_{n}").exists())
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out {out} is there already and not empty; name a new folder")
    return folder
