"""Standard output and error: printing never raises an error, so that a run continues if nobody reads it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, TextIO, cast


class _Stream:
    """A text stream whose output is dropped once it cannot be written: a closed pipe or terminal, a full disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; escape characters that the stream's encoding lacks."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            self._stream.write(text.encode(self._stream.encoding, "backslashreplace").decode(self._stream.encoding))
        except OSError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Redirect the stream's file to nowhere: Python and C code try to write the rest of their buffers again."""
        with suppress(OSError), open(os.devnull, "w") as null:
            os.dup2(null.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Let nothing that is printed raise an error."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:  # closed at the start (`2>&-`): another file would take its
        os.set_inheritable(null, True)  # number, and be overwritten by what C code or a child process prints
    os.close(null)
    before = sys.stdout, sys.stderr
    safe = [_Stream(stream or open(os.devnull, "w")) for stream in before]  # None if it was closed at the start
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in safe)
    try:
        yield
    finally:
        for stream in safe:
            stream.flush()
        sys.stdout, sys.stderr = before


def first_process() -> bool:
    """Return whether this is the first process of a training, which prints."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank), "0") == "0"


def print_once(text: str) -> None:
    """Print to standard error, in the first process only."""
    if first_process():
        print(text, file=sys.stderr)


def drop_missing_backend() -> None:
    """Remove a MPLBACKEND whose package is missing, with which matplotlib could not be imported.

    A notebook sets it, and the commands that it starts may have another environment. All figures are written to files.
    """
    scheme, _, module = os.environ.get("MPLBACKEND", "").partition("://")
    if scheme == "module" and not find_spec(module.partition(".")[0]):
        del os.environ["MPLBACKEND"]


def write_stderr(text: str) -> None:
    """Print from a signal handler or a thread, where print() may not be called."""
    with suppress(OSError):
        os.write(2, text.encode())
