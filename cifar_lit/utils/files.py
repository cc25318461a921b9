"""Write files atomically; lock them; name new folders; recognize files without content; escape CSV cells."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from cifar_lit.utils.errors import UsageError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # the quote too, so that `plain_cell` restores any text


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` at the end of the block; an error leaves `path` unchanged.

    A reader finds the complete old file or the complete new file, at any time and after any crash. An OSError names it.

    Args:
        path: The file.
        mode: `w` or `wb`.
        options: As for open().
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")  # same folder: a move between file systems is a copy
    try:
        with open(part, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.filename is None:  # of a write, as on a full disk
            error.filename = str(path)
        raise
    fsync_dir(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a text file, as UTF-8, atomically."""
    with atomic_write(path, encoding="utf-8") as file:
        file.write(text)


def fsync_dir(folder: str | Path) -> None:
    """Flush the names of the files in a folder to the disk."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def file_lock(path: str | Path, timeout_s: float = -1) -> Iterator[None]:
    """Lock a file against other processes; on a file system without locks, warn and continue.

    Args:
        path: The file.
        timeout_s: How long to wait for another process that has locked it; -1 for any time.

    Raises:
        filelock.Timeout: It is still locked after this time.
    """
    lock = FileLock(path, timeout_s)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        folder = os.path.dirname(path) or "."
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): do not let two processes write there at the same time, or "
            "use a folder on a local disk",
            stacklevel=2,
        )
    try:
        yield
    finally:
        lock.release()


def check_new_folder(out: str | None, option: str = "--out") -> None:
    """Check a folder for new files that is given with an option, before the work that is to be written to it.

    Raises:
        UsageError: It exists and is not an empty folder.
    """
    if out is None:
        return
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{option} {out} already exists and is not empty; use a new folder")
    if any(parent.is_file() for parent in folder.parents):
        raise UsageError(f"{option} {out}: part of this path is a file; use a new folder")


def new_folder(out: str | None, default: str = "", parent: Path = Path(), option: str = "--out") -> Path:
    """Create the folder given with an option, or the first `DEFAULT_N` that does not exist.

    Simultaneous calls return different `DEFAULT_N`.

    Raises:
        UsageError: As `check_new_folder`.
    """
    if out is not None:
        check_new_folder(out, option)
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)
    n = 1
    while True:
        try:
            (folder := parent / f"{default}_{n}").mkdir()
            return folder
        except FileExistsError:
            n += 1


def placeholder(path: str | Path) -> str | None:
    """Say that a file has no content of its own; None if it has."""
    with open(path, "rb") as file:
        start = file.read(30)
    if start.startswith(b"version https://git-lfs."):
        return "the file is a pointer of Git LFS; `git lfs pull` downloads its content"
    return None if start else "the file is empty"


def safe_cell(value: Any) -> Any:
    """Escape a CSV cell: put `'` before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value) else value


def plain_cell(text: str) -> str:
    """Undo `safe_cell`."""
    return text.removeprefix("'")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
