"""Ctrl-C, SIGTERM and SLURM's signal: the first one stops the program; then Ctrl-C exits immediately.

Other signals after the first one are ignored.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from cifar_lit.utils.output import first_process, write_stderr

SLURM_SIGNAL = getattr(signal, "SIGUSR1", None)  # missing on Windows


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


@dataclass
class Stop:
    """Whether a signal stops the program.

    Attributes:
        signum: The first signal; None before it.
        after_step: Whether the signal is only recorded, so that the training can stop after its current step. Otherwise
            it raises Interrupted: there is no step to finish.
    """

    signum: int | None = None
    after_step: bool = False


stop = Stop()


@contextmanager
def handled() -> Iterator[None]:
    """Handle signals as `stop` says; ignore the end of the terminal (SIGHUP), as nohup does."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield
        return
    stop.signum, stop.after_step = None, False
    handlers = {signal.SIGINT: _handle, signal.SIGTERM: _handle}
    if SLURM_SIGNAL and "SLURM_JOB_ID" in os.environ:
        handlers[SLURM_SIGNAL] = _handle
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    if hasattr(signal, "SIGHUP"):  # not on Windows
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        # Meanwhile SLURM sends SIGTERM to a job that it requeues.
        requeued = stop.signum is not None and stop.signum == SLURM_SIGNAL
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_IGN if requeued else handler)


def _handle(signum: int, frame: FrameType | None) -> None:
    if multiprocessing.parent_process() is not None:  # a data loader worker, which inherits the handler
        if not stop.after_step:
            os._exit(128 + signum)
    elif stop.signum is None:
        stop.signum = signum
        if not stop.after_step:
            raise Interrupted(signum)
        if first_process():
            hint = " (press Ctrl-C again to exit immediately)" if signum == signal.SIGINT else ""
            write_stderr(f"\n{signal.Signals(signum).name}: saving after this step{hint}\n")
    elif signum == signal.SIGINT:
        os._exit(128 + signum)
