"""Ctrl-C, SIGTERM and SLURM's signal during the training: recorded, and handled at the end of the step."""

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from types import FrameType

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Trainer

from cifar_lit.utils.errors import interrupt
from cifar_lit.utils.hardware import slurm_job
from cifar_lit.utils.output import write_stderr


class StopSignals:
    """Records a signal that stops the training; a second Ctrl-C exits immediately.

    Attributes:
        received: The first signal, None before it.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        slurm = SLURMEnvironment() if SLURMEnvironment.detect() else None
        self.requeue_signal = slurm.requeue_signal if slurm and slurm.auto_requeue else None
        self._signals = [signal.SIGINT, signal.SIGTERM, *([self.requeue_signal] if self.requeue_signal else [])]

    def record(self) -> None:
        """Record signals from now on; Lightning's own handlers would act in the middle of a step."""
        self._set(self._handle)

    def interrupt(self) -> None:
        """Let signals raise Interrupted from now on: before and after the training there is no step to finish."""
        self._set(interrupt)

    def _set(self, handler: Callable[[int, FrameType | None], None]) -> None:
        if threading.current_thread() is threading.main_thread():  # Python handles signals only there
            for signum in self._signals:
                signal.signal(signum, handler)

    def agreed(self, trainer: Trainer) -> int | None:
        """Return the signal if any process received one: its own, or else SIGTERM. All processes must call this."""
        if trainer.world_size == 1:
            return self.received
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            return self.received or signal.SIGTERM
        return None

    def requeue(self, trainer: Trainer, signum: int) -> str:
        """Requeue the SLURM job if the signal requests that; return a message, empty if it was not requeued."""
        if signum != self.requeue_signal or not trainer.is_global_zero:
            return ""
        try:
            requeued = subprocess.run(["scontrol", "requeue", str(slurm_job())]).returncode == 0
        except OSError:  # scontrol is not installed on this node
            return ""
        return "requeued the SLURM job, which resumes the training" if requeued else ""

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if multiprocessing.parent_process() is not None:
            return  # a data loader worker: the training still needs its batches
        if self.received is not None and signum == signal.SIGINT:
            os._exit(128 + signum)
        elif self.received is None:
            self.received = signum
            name = signal.Signals(signum).name
            hint = " (press Ctrl-C again to exit immediately)" if signum == signal.SIGINT else ""
            if os.environ.get("LOCAL_RANK", "0") == "0":
                write_stderr(f"\n{name}: saving after this step{hint}\n")
