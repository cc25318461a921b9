"""Ctrl-C, SIGTERM and SLURM's signal during the training: noted, for the end of the step."""

import multiprocessing
import os
import signal
import subprocess
from types import FrameType

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Trainer

from cifar_lit.utils.errors import interrupt
from cifar_lit.utils.hardware import slurm_job


class StopSignals:
    """Notes that the process was asked to stop; a second Ctrl-C leaves at once.

    Attributes:
        asked: The signal, None as long as there was none.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        slurm = SLURMEnvironment() if SLURMEnvironment.detect() else None
        self._requeue = slurm.requeue_signal if slurm and slurm.auto_requeue else None

    def watch(self) -> None:
        """Begin, in place of Lightning's handlers, which act in the middle of a step."""
        for signum in self._signals():
            signal.signal(signum, self._note)

    def leave(self) -> None:
        """Stop at once, where nothing has to be finished first: before and after the training."""
        for signum in self._signals():
            signal.signal(signum, interrupt)

    def agreed(self, trainer: Trainer) -> int | None:
        """Return the signal if any process got one, the same in all of them or SIGTERM; all must ask together."""
        if trainer.world_size == 1:
            return self.asked
        if trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            return self.asked or signal.SIGTERM
        return None

    def requeue(self, trainer: Trainer, signum: int) -> str:
        """Give the job back to SLURM if that is what a signal asked for; say so if it did."""
        if signum != self._requeue or not trainer.is_global_zero:
            return ""
        try:
            done = subprocess.run(["scontrol", "requeue", str(slurm_job())]).returncode == 0
        except OSError:  # no SLURM on this node
            return ""
        return "given back to SLURM, which starts it again" if done else ""

    def _signals(self) -> list[int]:
        return [signal.SIGINT, signal.SIGTERM, *([self._requeue] if self._requeue else [])]

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if multiprocessing.parent_process() is not None:
            return  # a loader's worker, which a terminal or a scheduler asks too: its batches are still needed
        if self.asked is not None and signum == signal.SIGINT:
            os._exit(128 + signum)
        elif self.asked is None:
            self.asked = signum
            name = signal.Signals(signum).name  # not print(): it may be what was interrupted
            hint = " (Ctrl-C once more leaves at once)" if signum == signal.SIGINT else ""
            if os.environ.get("LOCAL_RANK", "0") == "0":
                os.write(2, f"\n{name}: saving after this step{hint}\n".encode())
