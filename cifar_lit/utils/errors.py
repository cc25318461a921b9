"""Errors and signals that end a program with a short message and an exit code."""

import errno
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from cifar_lit.utils import signals, slurm
from cifar_lit.utils.output import drop_missing_backend, first_process, safe_output

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


def out_of_memory(error: RuntimeError) -> str | None:
    """Return the message for torch's error about a lack of memory; None for other errors."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:  # on a GPU; on the CPU
        return f"not enough memory ({text[:200]})"
    return None


@contextmanager
def short_errors() -> Iterator[None]:
    """Replace the traceback of expected errors, and of signals, by one message; exit with 2 (usage) or 1 (failure)."""
    with safe_output(), signals.handled(), _hide_disk_errors_of_threads():
        try:
            drop_missing_backend()
            yield
        except signals.Interrupted as stop:
            _exit_after_signal(stop)
        except ModuleNotFoundError as error:
            if error.name is None:  # raised by a package that says what to install
                _exit(1, str(error))
            if error.name.split(".")[0] == "cifar_lit":
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
        except RuntimeError as error:
            if not (problem := out_of_memory(error)):
                raise
            _exit(1, f"{problem}; end other programs that use it, or set CUDA_VISIBLE_DEVICES=-1 to compute on the CPU")
        except OSError as error:
            if error.errno not in DISK:
                raise
            _exit(1, f"{error}; files written earlier are kept. Free some space or choose another folder")


def _exit_after_signal(stop: signals.Interrupted) -> NoReturn:
    """Print one message, requeue the job on SLURM's signal, and exit with 128 + the signal's number."""
    slurm_signal = stop.signum == signals.SLURM_SIGNAL
    if not first_process():
        # With another code, srun --kill-on-bad-exit would end the first process before it has requeued the job.
        sys.exit(0 if slurm_signal else 128 + stop.signum)
    reasons = [f"stopped by {signal.Signals(stop.signum).name}"]
    if slurm_signal and (refusal := slurm.requeue()):
        reasons += [f"SLURM did not requeue the job ({refusal})", stop.advice]
    else:
        reasons.append("requeued the SLURM job, which resumes the training" if slurm_signal else stop.advice)
    print("\n" + "; ".join(filter(None, reasons)), file=sys.stderr)
    sys.exit(128 + stop.signum)


def _usage_errors() -> tuple[type[Exception], ...]:
    """Return the types for exit code 2: with Lightning's own once it is imported, which takes seconds."""
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return (UsageError, lightning.MisconfigurationException) if lightning else (UsageError,)


def _exit(code: int, message: str) -> NoReturn:
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
