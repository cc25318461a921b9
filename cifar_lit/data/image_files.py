"""The image files in a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from cifar_lit.utils.output import print_once
from cifar_lit.utils.text import counted

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def walk(folder: str) -> Iterator[str]:
    """Yield all files in a folder and its subfolders, relative to it, without hidden ones, in no particular order.

    Links to folders are followed; a folder that is reached twice is listed once, and those above `folder` never. Only
    the names of folders are kept in memory.

    Raises:
        OSError: A folder cannot be read.
    """
    seen = {str(parent) for path in (folder, os.path.realpath(folder)) for parent in Path(path).absolute().parents}
    pending = [""]
    while pending:
        prefix = pending.pop()
        path = os.path.join(folder, prefix)
        if (real := os.path.realpath(path)) in seen:
            continue
        seen.add(real)
        subfolders = []
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    continue
                if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
                    subfolders.append(entry.name)
                else:
                    yield f"{prefix}{entry.name}"
        pending += [f"{prefix}{name}/" for name in sorted(subfolders, reverse=True)]


def print_ignored(folder: str, files: list[str], count: int) -> None:
    """Name some of the `count` files in a folder that are not images."""
    if count:
        names = ", ".join(files[:3]) + ", ..." * (count > 3)
        print_once(f"{folder}: ignoring {counted(count, 'file')}, not PNG, JPEG or WebP ({names})")
