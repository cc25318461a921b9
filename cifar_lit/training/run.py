"""One training from its beginning to its report: the run's folder, what ends it early, and how to go on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from cifar_lit.cli.arguments import without
from cifar_lit.cli.resume import Start
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report, raise_if_failed
from cifar_lit.training import checkpoint_files
from cifar_lit.training import distributed as processes
from cifar_lit.training import run_folder as runs
from cifar_lit.training.checkpointing import LastCheckpoint
from cifar_lit.training.loggers import ResumableCSVLogger
from cifar_lit.training.lr_finder import find_lr
from cifar_lit.utils import hardware
from cifar_lit.utils.errors import Interrupted, RunError, UsageError


@dataclass(frozen=True)
class Training:
    """What is trained, from where, and where it is logged.

    Args:
        trainer: With all callbacks; its loggers are set here where `logs` says so.
        module: What is trained.
        data: The images.
        start: Where it begins.
        folder: That of the recipe's runs, `lightning_logs/RECIPE`.
        logs: Whether it gets a folder there, with our loggers.
        lr_find: Steps of the learning-rate range test before it; 0 for none.
        args: The command line, to say how to go on.
        process_timeout: How long to wait for another process.
    """

    trainer: Trainer
    module: ImageClassifier
    data: ImageDataModule
    start: Start
    folder: Path
    logs: bool
    lr_find: int
    args: Sequence[str]
    process_timeout: timedelta

    def run(self) -> None:
        """Find the learning rate if asked to, train, and let the callbacks report.

        Raises:
            UsageError: Something that was given cannot be used.
            RunError: Something failed; the message says what is kept and how to go on.
            Interrupted: A signal ended it, likewise.
        """
        if self.trainer.strategy.root_device.type == "cpu":
            hardware.keep_freed_memory()
        if self.trainer.world_size > 1:
            together = self.trainer.world_size * self.data.batch_size
            rank_zero_info(f"{self.trainer.world_size} processes, {together} images a step (data.batch_size in each)")
            cores, here = hardware.available_cores(), self.trainer.num_devices
            if self.trainer.strategy.root_device.type == "cpu" and here > cores:
                rank_zero_warn(f"{here} processes share {cores} cores: give trainer.devices={cores} or fewer")
        with self._in_its_folder() if self.logs and not self._dry else nullcontext():
            try:
                self._train()
            except Interrupted as stop:
                raise self._stopped(stop) from None
            except RuntimeError as error:
                # A signal may come in the middle of Lightning's clean-up, which fails when it is done again.
                if isinstance(error.__context__, Interrupted):
                    raise self._stopped(error.__context__) from None
                if reason := processes.cause_of(error):
                    raise RunError(f"{reason}; {self._advice()}") from error
                raise

    @property
    def _dry(self) -> bool:
        """Whether it only tries a few steps and leaves nothing."""
        return bool(getattr(self.trainer, "fast_dev_run", False))

    @contextmanager
    def _in_its_folder(self) -> Iterator[None]:
        """Log to a new `version_N`, or to the run that is gone on with; give a new one back where nothing began."""
        if not self.trainer.is_global_zero:  # asks the first process for the folder
            self.trainer.loggers = self._loggers(0)
            yield
            return
        run = self.start.run or runs.create(self.folder)
        with runs.lock(run):
            self.trainer.loggers = self._loggers(runs.number(run))
            try:
                yield
            except (UsageError, MisconfigurationException):
                if not self.start.run and self.trainer.global_step <= self.start.step:
                    runs.remove(run)
                raise

    def _loggers(self, version: int) -> list[Logger]:
        root, recipe, step = str(self.folder.parent), self.folder.name, self.start.step
        purge_step = step if self.start.run else None
        return [
            TensorBoardLogger(root, recipe, version, default_hp_metric=False, purge_step=purge_step),
            ResumableCSVLogger(root, recipe, version, before_step=step),
        ]

    def _train(self) -> None:
        if self.trainer.world_size > 1:
            processes.start_processes(self.trainer.strategy, self.process_timeout, self.start.run, self.start.file)
        if self.lr_find and not self._dry and not self.start.file:  # which brings its own rate
            lr_range = find_lr(self.trainer, self.module, self.data, self.lr_find)
            self.module.lr = lr_range.suggested
            if (log_dir := self.trainer.log_dir) and self.trainer.is_global_zero:
                lrs, losses, report = lr_range.lrs, lr_range.losses, Report(Path(log_dir) / "report", self.trainer)
                report.figure("lr_find", figures.lr_range(lrs, losses, lr_range.suggested))
                report.table("lr_find", ("lr", "loss"), zip(lrs.tolist(), losses.tolist(), strict=True))
        log_dir = self.trainer.log_dir  # which all processes must ask for together
        if log_dir and not self._dry:
            rank_zero_info(f"run folder {log_dir}")
        self._limit()
        ckpt_path = str(self.start.file) if self.start.file else None
        try:
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=ckpt_path, weights_only=True)
        except ValueError as error:
            if "`val_check_interval`" in str(error):
                raise UsageError(f"trainer.val_check_interval: {' '.join(str(error).split())}") from None
            raise
        if not self._dry:
            raise_if_failed(
                Analysis.of(self.trainer, self.module),
                "the training is finished and kept; "
                f"{hardware.repeatable('evaluate', '--ckpt_path', str(log_dir))} makes its report again",
            )

    def _limit(self) -> None:
        """Let a training that is finished, or was ended by EarlyStopping, only report again."""
        if not self.start.file:
            return
        loop, epochs = self.trainer.fit_loop, checkpoint_files.epochs_done(self.start.checkpoint)
        enough = epochs >= (loop.min_epochs or 0) and self.start.step >= (loop.min_steps or 0)
        if self.start.goes_on and enough and checkpoint_files.stopped_early(self.start.checkpoint):
            loop.max_epochs = epochs  # Lightning would train on
        if 0 < (self.trainer.max_epochs or 0) <= epochs:
            rank_zero_info("this training is finished; its report is made again")

    def _stopped(self, stop: Interrupted) -> BaseException:
        """Return what a signal leads to, with what is kept and how to go on."""
        if processes.is_child():
            return SystemExit(0)  # it has not failed; the first process tells the user
        advice, saver = stop.advice, self._saver
        if not advice and saver:  # during the report nobody has given the job back yet
            advice = saver.signals.requeue(self.trainer, stop.signum)
        return Interrupted(stop.signum, advice or self._advice())

    @property
    def _saver(self) -> LastCheckpoint | None:
        return next((one for one in self.trainer.checkpoint_callbacks if isinstance(one, LastCheckpoint)), None)

    def _advice(self) -> str:
        """Say what is kept of a training that ended early, and how to go on."""
        saver = self._saver
        if not saver or not saver.file or not saver.file.is_file():
            return "nothing was saved yet; start it again"
        epochs, done = self.trainer.max_epochs, self.trainer.current_epoch
        if epochs and 0 < epochs <= done:
            evaluate = hardware.repeatable("evaluate", "--ckpt_path", str(saver.file.parent.parent))
            return f"the training is finished and kept; {evaluate} makes its report"
        run, rest = saver.file.parent.parent, without(self.args, "--ckpt_path")
        again = hardware.repeatable("fit", *rest, "--ckpt_path", str(run) if self.logs else str(saver.file))
        return f"saved in {saver.file}; go on with\n{again}"
