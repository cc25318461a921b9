"""Errors and signals that end a program with a short message and an exit code."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cifar_lit.utils.output import drop_missing_backend, safe_output

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # full, or not writable


class UsageError(ValueError):
    """An invalid option or file: exit code 2. The message names the option and the remedy."""


def at_least(option: str, value: int, least: int) -> int:
    """Return the value, or raise UsageError if it is below `least`."""
    if value < least:
        raise UsageError(f"{option} must be {least} or more, got {value}")
    return value


class RunError(RuntimeError):
    """A failure at run time (network, disk, diverging training): exit code 1. The message says what to do next."""


class Interrupted(BaseException):
    """A signal stopped the program: exit code 128 + its number.

    Attributes:
        signum: The signal.
        advice: What is saved and how to resume.
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum, advice)
        self.signum = signum
        self.advice = advice


def interrupt(signum: int, frame: FrameType | None = None) -> None:
    """Handle a signal by raising Interrupted."""
    if multiprocessing.parent_process() is not None:  # a data loader worker, which inherits the handler
        os._exit(128 + signum)
    raise Interrupted(signum)


@contextmanager
def short_errors() -> Iterator[None]:
    """Replace the traceback of expected errors, and of signals, by one message; exit with 2 (usage) or 1 (failure)."""
    with safe_output(), _raise_on_signals(), _hide_disk_errors_of_threads():
        try:
            drop_missing_backend()
            yield
        except Interrupted as stop:
            name = signal.Signals(stop.signum).name
            print("\n" + f"stopped by {name}; {stop.advice}".strip("; "), file=sys.stderr)
            sys.exit(128 + stop.signum)
        except ModuleNotFoundError as error:
            if (error.name or "cifar_lit").split(".")[0] == "cifar_lit":
                raise
            _exit(
                1,
                f"{error}; the packages that cifar_lit needs are not installed for {sys.executable}: install them with "
                "pip install, or in a checkout run scripts/fit or use .venv/bin/python",
            )
        except _usage_errors() as error:
            _exit(2, str(error))
        except RunError as error:
            _exit(1, str(error))
        except MemoryError as error:
            _exit(1, f"not enough memory ({error}); reduce data.image_size or data.batch_size")
        except OSError as error:
            if error.errno not in DISK:
                raise
            _exit(1, f"{error}; files written earlier are kept. Free some space or choose another folder")


def _usage_errors() -> tuple[type[Exception], ...]:
    """Return the types for exit code 2: with Lightning's own once it is imported, which takes seconds."""
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return (UsageError, lightning.MisconfigurationException) if lightning else (UsageError,)


def _exit(code: int, message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def _hide_disk_errors_of_threads() -> Iterator[None]:
    """Print nothing when TensorBoard's thread finds the disk full: its next call raises the error again."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and args.exc_value.errno in DISK):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _raise_on_signals() -> Iterator[None]:
    """Raise Interrupted on Ctrl-C and SIGTERM; ignore the end of the terminal (SIGHUP), as nohup does."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield
        return
    before = {signum: signal.signal(signum, interrupt) for signum in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP"):  # not on Windows
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
