"""Files that are whole or not there: written beside their place, flushed to the disk, moved over the old one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # the last one so that `plain_cell` gives back any text


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` when the block ends, and leaves `path` as it was where it fails.

    Whoever reads `path`, at any instant and after any crash, finds the old file or the new one, whole.

    Args:
        path: The file.
        mode: `w` or `wb`.
        options: As for open().
    """
    path = Path(path)
    fresh = path.with_name(f"{path.name}.part")  # in the same folder: across file systems a move is a copy
    try:
        with open(fresh, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
    fsync_dir(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Put a text, as UTF-8, in the place of a file."""
    with atomic_write(path, encoding="utf-8") as file:
        file.write(text)


def safe_cell(value: Any) -> Any:
    """Return what to write into a CSV cell: a text that a spreadsheet would take for a formula gets a `'` before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value) else value


def plain_cell(text: str) -> str:
    """Return the text that `safe_cell` was given."""
    return text.removeprefix("'")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def fsync_dir(folder: str | Path) -> None:
    """Wait until what was moved into or made in a folder is on the disk."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        here = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(here)
        finally:
            os.close(here)
