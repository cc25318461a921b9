"""How a run ends early: the errors and signals that a user is told about without a traceback."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # full, or not to be written


class UsageError(ValueError):
    """An option or a file that the user gave cannot be used: exit code 2.

    The message names the option and what to do instead.
    """


class RunError(RuntimeError):
    """Something outside failed while working (network, disk, diverging training): exit code 1.

    The message says what happened and what to do next.
    """


class Interrupted(BaseException):
    """A signal asked the process to stop: exit code 128 + its number, as a shell counts.

    Attributes:
        signum: Which signal.
        advice: What is kept and how to go on.
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum, advice)
        self.signum = signum
        self.advice = advice


def interrupt(signum: int, frame: FrameType | None = None) -> None:
    """Raise Interrupted: the signal handler for wherever nothing has to be finished first."""
    if multiprocessing.parent_process() is not None:  # a worker, which has this handler from its parent
        os._exit(128 + signum)
    raise Interrupted(signum)


@contextmanager
def short_errors() -> Iterator[None]:
    """Turn what a user can mend, and signals, into one message and an exit code: 2 for usage, 1 for failure."""
    usage: tuple[type[Exception], ...] = (UsageError,)
    with _signals_raise(), _threads_quiet():
        try:
            from lightning_fabric.utilities.exceptions import MisconfigurationException

            usage = (UsageError, MisconfigurationException)
            yield
        except Interrupted as stop:
            name = signal.Signals(stop.signum).name
            print("\n" + f"stopped by {name}; {stop.advice}".strip("; "), file=sys.stderr)
            sys.exit(128 + stop.signum)
        except ModuleNotFoundError as error:
            if (error.name or "cifar_lit").split(".")[0] == "cifar_lit":
                raise
            print(
                f"error: {error}; this Python, {sys.executable}, lacks the project's packages: call scripts/fit, use "
                ".venv/bin/python, or install them with pip install -e .",
                file=sys.stderr,
            )
            sys.exit(1)
        except usage as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except MemoryError as error:
            text = f"not enough memory ({error}); a smaller data.image_size or data.batch_size needs less"
            print(f"error: {text}", file=sys.stderr)
            sys.exit(1)
        except OSError as error:
            if error.errno not in DISK:
                raise
            print(f"error: {error}; what was written before is kept. Make room or choose a folder", file=sys.stderr)
            sys.exit(1)


@contextmanager
def _threads_quiet() -> Iterator[None]:
    """Print nothing where TensorBoard's thread finds the disk full: the next call of it raises that error again."""
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
def _signals_raise() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise Interrupted, here and nowhere later."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main one only
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    for signum in before:
        signal.signal(signum, interrupt)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
