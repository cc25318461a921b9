"""A training: in which folder, from which checkpoint, and how to resume when it ends early."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models import compilation, weights
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.training import distributed, run_folder
from cifar_lit.training.loggers import RunTensorBoardLogger
from cifar_lit.training.lr_finder import LRRange, find_lr
from cifar_lit.training.run_folder import RunFolder
from cifar_lit.utils import commands, hardware, slurm
from cifar_lit.utils.errors import DISK, RunError, UsageError
from cifar_lit.utils.signals import Interrupted, stop
from cifar_lit.utils.text import counted
from cifar_lit.utils.trainers import find_callbacks, is_fast_dev_run


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Attributes:
        run: The run to resume in its folder; None for a new one.
    """

    run: Path | None = None

    @cached_property
    def file(self) -> Path | None:
        """The checkpoint to resume from; None for the first step."""
        last = self.run / "checkpoints" / "last.ckpt" if self.run else None
        return last if last and last.is_file() else None

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The checkpoint, loaded without running code from it; empty for the first step."""
        return weights.read(self.file) if self.file else {}

    @property
    def step(self) -> int:
        """Number of finished optimizer steps."""
        return int(self.checkpoint.get("global_step", 0))

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return int(self.checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] if self.file else 0)

    @property
    def stopped_early(self) -> bool:
        """Whether Lightning's EarlyStopping had ended the training."""
        return any(
            state["stopped_epoch"] > 0 or state["wait_count"] >= state["patience"]
            for state in self.checkpoint.get("callbacks", {}).values()
            if isinstance(state, dict) and {"stopped_epoch", "wait_count", "patience"} <= state.keys()
        )


@dataclass(frozen=True)
class Training:
    """What to train, and from where.

    Args:
        trainer: With all callbacks.
        module: The model.
        data: The images.
        start: Where the training starts.
        runs: Folder of the recipe's runs, `lightning_logs/RECIPE`.
        config: Content of `config.yaml`.
        args: Command-line arguments for further processes.
        lr_find: Steps of the learning rate range test before the training; 0 for none.
        record_lr_range: Called with the result of that test.
        process_timeout: How long a process waits for another one.
    """

    trainer: Trainer
    module: ImageClassifier
    data: ImageDataModule
    start: Start
    runs: Path
    config: str
    args: Sequence[str]
    lr_find: int
    record_lr_range: Callable[[LRRange], None]
    process_timeout: timedelta

    def run(self) -> Path | None:
        """Train, and return the run's folder; None under `fast_dev_run`, which has none.

        Raises:
            UsageError: An option cannot be used.
            RunError: The training failed, or the disk is full; the message says what is saved and how to resume.
            Interrupted: A signal ended the training; likewise.
        """
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        if on_cpu:
            hardware.keep_freed_memory()
        if self.trainer.world_size > 1:
            self._folder.step = self.start.step
            self._print_processes()
        threads = hardware.limited_threads(self.trainer.num_devices) if on_cpu else nullcontext()
        with threads, self._run_folder():
            try:
                self._fit()
            except Interrupted as interrupted:
                raise self._stopped(interrupted.signum) from None
            except RuntimeError as error:
                reason = distributed.cause_of(error)
                # A signal has ended another process first, or makes Lightning's own handling of an exception fail.
                if stop.signum and (reason or isinstance(error.__context__, Interrupted)):
                    raise self._stopped(stop.signum) from None
                if problem := compilation.failure(error):
                    raise UsageError(problem) from None
                if reason:
                    raise RunError(f"{reason}; {self._how_to_resume()}") from error
                raise
            except OSError as error:
                if error.errno not in DISK:
                    raise
                raise RunError(f"{error}; free some space; {self._how_to_resume()}") from error
        distributed.disconnect()  # not after a failure: it could wait for a process that has died
        return self._folder.path

    def _print_processes(self) -> None:
        """Print the number of processes."""
        count, cores = self.trainer.world_size, hardware.available_cores()
        rank_zero_info(f"{count} processes, {count * self.data.batch_size} images per step (data.batch_size in each)")
        if self.trainer.strategy.root_device.type == "cpu" and self.trainer.num_devices > cores:
            found = f"{self.trainer.num_devices} processes on {counted(cores, 'core')}"
            rank_zero_warn(f"{found}: use trainer.devices={cores} or fewer")

    @contextmanager
    def _run_folder(self) -> Iterator[None]:
        """Create or lock the run's folder; remove a new one if the training ends before its first step."""
        if is_fast_dev_run(self.trainer) or not self.trainer.is_global_zero:
            yield
            return
        run = self.start.run or run_folder.create(self.runs, self.config)
        with run_folder.lock(run, self.process_timeout.total_seconds() if slurm.was_requeued() else 0):
            self._folder.path = run
            for logger in self.trainer.loggers:
                if isinstance(logger, CSVLogger):
                    keep_metrics(Path(logger.log_dir))
            self.trainer.loggers = [
                RunTensorBoardLogger(str(run), self.start.step if self.start.run else None)
                if isinstance(logger, RunTensorBoardLogger)
                else logger
                for logger in self.trainer.loggers
            ]
            try:
                yield
            except (UsageError, MisconfigurationException, ModuleNotFoundError, Interrupted):
                if not self.start.run and not self.trainer.global_step:
                    run_folder.remove(run)
                raise

    def _fit(self) -> None:
        if self.trainer.world_size > 1:  # in the locked folder: nothing is started if it is refused
            distributed.start_processes(self.trainer.strategy, self.args, self.process_timeout, self.start.run)
        if self.lr_find and not self.start.file:  # a checkpoint has its own learning rate
            lr_range = find_lr(self.trainer, self.module, self.data, self.lr_find)
            self.module.lr = lr_range.suggested
            self.record_lr_range(lr_range)
        if self._folder.path:
            rank_zero_info(f"run folder {self._folder.path}")
        if self.start.file:
            self._end_if_finished()
        try:
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=self.start.file, weights_only=True)
        except ValueError as error:
            if "`val_check_interval`" in str(error):
                raise UsageError(f"trainer.val_check_interval: {' '.join(str(error).split())}") from None
            raise

    def _end_if_finished(self) -> None:
        """Let a finished training, also one that EarlyStopping ended, only create its report again."""
        loop, epochs = self.trainer.fit_loop, self.start.epochs
        enough = epochs >= (loop.min_epochs or 0) and self.start.step >= (loop.min_steps or 0)
        if enough and self.start.stopped_early:
            loop.max_epochs = epochs  # Lightning would continue training
        if 0 < (self.trainer.max_epochs or 0) <= epochs:
            rank_zero_info("training has already finished; creating the report again")

    def _stopped(self, signum: int) -> BaseException:
        """Return the exception for a signal, with what is saved and how to resume."""
        if distributed.is_child():
            return SystemExit(0)  # not a failure; the first process reports it
        return Interrupted(signum, self._how_to_resume())

    def _how_to_resume(self) -> str:
        """Return what is saved of a training that ended early, and how to resume it."""
        run, epochs = self._folder.path or self.start.run, self.trainer.max_epochs
        file = Start(run).file
        if not run or not file:
            return "nothing was saved yet; start it again"
        if epochs and 0 < epochs <= self.trainer.current_epoch:
            command = commands.repeatable("evaluate", str(run))
            return f"the training is finished and saved; {command} creates its report"
        return f"saved in {file}; resume with\n{commands.repeatable('fit', '--ckpt_path', str(run), processes=True)}"

    @property
    def _folder(self) -> RunFolder:
        return find_callbacks(self.trainer, RunFolder)[0]


def keep_metrics(folder: Path) -> None:
    """Rename the `metrics.csv` of a CSVLogger with a fixed version, which deletes that of an earlier or resumed run."""
    if (file := folder / "metrics.csv").exists():
        kept = (folder / f"metrics_{number}.csv" for number in itertools.count(1))
        file.rename(next(path for path in kept if not path.exists()))
