"""The command line: Lightning's CLI with our groups, our defaults, and short errors."""

import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace, set_parsing_settings
from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit import callbacks, checkpoints, hardware, processes, runs
from cifar_lit.analysis import Analysis
from cifar_lit.checks import as_list, check, check_seed
from cifar_lit.data import PictureData
from cifar_lit.errors import Interrupted, RunError, UsageError
from cifar_lit.loggers import ContinuedCSVLogger
from cifar_lit.lr_finder import find_lr
from cifar_lit.module import ImageClassifier
from cifar_lit.net import smallest_strided
from cifar_lit.notes import SaveRun
from cifar_lit.parser import Parser
from cifar_lit.report import ReportCallback, WholeReport
from cifar_lit.saving import LastCheckpoint, WholeCheckpointIO
from cifar_lit.screen import History, ProgressBar, silence_noise

DEFAULT_RECIPE = Path(__file__).parent.parent / "configs" / "onecycle.yaml"
GROUPS = (
    "data",
    "model",
    "checkpoint",
    "misclassified",
    "gradcam",
    "samples",
    "scores",
    "page",
    "projector",
    "trainer",
)

# A recipe from somebody else can name any class. jsonargparse refuses those that run commands (os, subprocess, ...)
# only once it is told to, and by default would make an object even where no class is expected.
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)


class NoProfiler(PassThroughProfiler):
    """Measures nothing, as Lightning's own, but without a new generator for it a hundred times a step."""

    _nothing = nullcontext()

    # Lightning types it as a generator, which it must not be here.
    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Do nothing around an action."""
        return self._nothing


class FitCLI(LightningCLI):
    """Parses, checks, builds data, module and trainer; `fit` trains.

    Args:
        args: Command-line arguments. Without a `--config` among them the default recipe is taken.
    """

    prog = "python -m cifar_lit.fit"
    step = 0  # that of the checkpoint that is gone on from
    description = "Train a ResNet-18, show what it gets wrong, and show why."
    ckpt_path_help = (
        "Checkpoint to go on from: the folder of a run of this recipe, to continue it there; `last`, for the newest "
        "one; a .ckpt file, for a new run; or `best`, the newest run's. Loaded without running code from it."
    )

    def __init__(self, args: Sequence[str]) -> None:
        given = list(args)
        self.given = tuple(given)
        if not option_values(given, "-c", "--config"):
            given = ["--config", str(DEFAULT_RECIPE), *given]
        self.recipe = _recipe(given)
        silence_noise()
        super().__init__(
            ImageClassifier,
            PictureData,
            save_config_callback=SaveRun,
            save_config_kwargs={"save_to_log_dir": False},  # it writes them itself
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "allow_abbrev": False,  # a misspelt option must not pass for a short one
                "prog": self.prog,
                "usage": "%(prog)s [--config RECIPE] [--OPTION VALUE ...]",
                "description": f"{self.description} Every option can stand in a recipe (--config, several are "
                "merged) or on the command line.",
            },
            args=given,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without LightningCLI's warning that both `args` and `sys.argv` are there."""
        try:
            self.config = parser.parse_args(args)
        except UnicodeDecodeError as error:
            raise UsageError(f"--config: the file is no UTF-8 text ({error}); the recipes are in configs/") from None
        for group in GROUPS:
            if not isinstance(self.config[group], Namespace):
                raise UsageError(f"{group} is a group of options; give {group}.NAME, --help lists them")
        check_seed(self.config.seed_everything)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add all options, our own before the Trainer's many."""
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=self.ckpt_path_help)
        parser.add_argument(
            "--lr_find",
            type=int,
            default=0,
            help="Steps of a learning-rate range test (arXiv 1506.01186) before training, 0 or more, usually 100; "
            "the rate it finds takes the place of the optimizer's lr. 0 turns it off. A training that goes on from a "
            "checkpoint keeps its own rate.",
        )
        parser.add_argument(
            "--process_timeout",
            type=int,
            default=600,
            help="Seconds, 1 or more, after which a process of several stops waiting for one that does not answer any "
            "more, and the run ends with an error.",
        )
        parser.add_lightning_class_args(PictureData, "data")
        parser.add_lightning_class_args(ImageClassifier, "model")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_lightning_class_args(callbacks.MisclassifiedPictures, "misclassified")
        parser.add_lightning_class_args(callbacks.GradCAMPictures, "gradcam")
        parser.add_lightning_class_args(callbacks.SamplePictures, "samples")
        parser.add_lightning_class_args(callbacks.Scores, "scores")
        parser.add_lightning_class_args(callbacks.Page, "page")
        parser.add_lightning_class_args(callbacks.Projector, "projector")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({"trainer.num_sanity_val_steps": 0})
        parser.link_arguments("misclassified.k", "gradcam.k")  # the SAME pictures are explained
        parser.link_arguments("gradcam.method", "page.method")
        for name in ("num_classes", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Check what can be checked before the data are loaded."""
        config = self.config
        self.runs = Path(config.trainer.default_root_dir or ".") / "lightning_logs" / self.recipe
        check(config)
        self.continued, self.checkpoint_file = processes.told() or self._find_checkpoint()
        if self.checkpoint_file:  # read before the data, which may have to be downloaded first
            self.checkpoint = checkpoints.read(self.checkpoint_file)

    def _find_checkpoint(self) -> Sequence[Path | None]:
        """Find the run whose folder is used again, if any, and where to go on."""
        wanted = self.config.ckpt_path
        run = runs.requeued(self.runs, hardware.slurm_job(), hardware.command())
        if run or not wanted:
            pass
        elif wanted == "last":
            run = runs.unfinished(self.runs) or checkpoints.find(wanted, self.runs).parent.parent
        elif Path(wanted).is_dir():
            run = runs.named(wanted, self.runs)
        else:
            return None, checkpoints.find(wanted, self.runs)
        if not run:
            return None, None
        last = run / "checkpoints" / "last.ckpt"
        there = last.is_file()
        rank_zero_info(f"going on with {run}" + ("" if there else ", which has no checkpoint yet: from the start"))
        return run, last if there else None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers, checkpoints and callbacks of ours, choose the precision, check the checkpoint."""
        trainer = self.config_init.trainer
        self.datamodule.setup("fit")  # what is wrong with the data is said before anything is written
        if self.checkpoint_file:
            checkpoints.check_fits(self.checkpoint, self.checkpoint_file, self.model)
            checkpoints.check_classes(self.checkpoint, self.checkpoint_file, self.datamodule.pictures.classes)
            self.step = self.checkpoint["global_step"]
        if self.continued:
            parts = len(list(self.continued.glob("config*.yaml")))  # what the run was begun with stays as it is
            if parts:
                self.save_config_kwargs["config_filename"] = f"config_{parts + 1}.yaml"
        device = hardware.choose_device(str(trainer.accelerator))
        smallest = smallest_strided(self.config.data.image_size, self.config.model.stem)
        if trainer.precision is None:
            kwargs["precision"], reason = hardware.choose_precision(device, smallest)
            rank_zero_info(
                f"device {reason}; precision {kwargs['precision']} (trainer.precision), memory format "
                f"{self.config.model.memory_format} (model.memory_format)"
            )
        elif re.search("bf16|^16", str(trainer.precision)) and hardware.spoils_bfloat16(device, smallest):
            raise UsageError(
                f"trainer.precision={trainer.precision} gives wrong gradients on this CPU where the maps shrink to 1 "
                "px; give trainer.precision=32-true, a larger data.image_size or model.stem=cifar"
            )
        self.logs = trainer.logger is None or trainer.logger is True
        if self.logs:
            kwargs["logger"] = False  # until the run has its folder
        elif trainer.logger is False:
            self.save_config_callback = None  # there is no run folder that could hold it
        torch.set_float32_matmul_precision("high")  # TF32 where the device has it
        if trainer.benchmark is None and not trainer.deterministic:
            kwargs["benchmark"] = True  # cuDNN tries its convolutions: all batches but the last have one shape
        if not any(isinstance(plugin, CheckpointIO) for plugin in as_list(trainer.plugins)):
            kwargs["plugins"] = [*as_list(trainer.plugins), WholeCheckpointIO()]
        processes.use_local_ddp(timedelta(seconds=self.config.process_timeout))
        if trainer.profiler is None:
            kwargs["profiler"] = NoProfiler()
        if trainer.enable_progress_bar is None and not sys.stderr.isatty():
            kwargs["enable_progress_bar"] = False  # a log file gets the line of each epoch, not a thousand bars
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks_: list[Callback]) -> Trainer:
        parts = [one for one in callbacks_ if isinstance(one, ReportCallback)]
        page = [one for one in parts if isinstance(one, callbacks.Page)]  # sums up what the others made
        pictures = [one for one in parts if one not in page]
        report = WholeReport([*pictures, callbacks.Curves(), *page, callbacks.Summary()])
        saver = [one for one in callbacks_ if isinstance(one, LastCheckpoint)]
        ours: list[Callback] = [History(), *(one for one in callbacks_ if one not in [*parts, *saver]), report]
        if config.get("enable_progress_bar") is not False:
            ours.append(ProgressBar())
        if config.get("enable_checkpointing") is not False:
            # The best first, so that what it knows of the epoch goes into `last`.
            if self.config.data.val_size:
                best = ModelCheckpoint(
                    filename="best", monitor="val/accuracy", mode="max", enable_version_counter=False
                )
                ours.append(best)
            ours += saver
        try:
            trainer = super()._instantiate_trainer(config, ours)
            if environment := getattr(trainer.strategy, "cluster_environment", None):  # torchrun and SLURM know better
                environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
        except (ImportError, TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}; change that trainer option") from None
        # Lightning would enter an epoch that is done a second time where a training with max_steps is resumed.
        trainer.fit_loop._iteration_based_training = _no  # type: ignore[method-assign]
        return trainer

    def fit(self) -> None:
        """Find the learning rate if asked to, train, and let the callbacks report."""
        if self.trainer.strategy.root_device.type == "cpu":
            hardware.keep_freed_memory()
        if self.trainer.world_size > 1:
            processes.arrange_meeting(self.continued, self.checkpoint_file)
            together = self.trainer.world_size * self.config.data.batch_size
            rank_zero_info(f"{self.trainer.world_size} processes, {together} pictures a step (data.batch_size in each)")
        dry = getattr(self.trainer, "fast_dev_run", False)
        with self._run() if self.logs and not dry else nullcontext():
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

    @contextmanager
    def _run(self) -> Iterator[None]:
        """Log to a new `version_N`, or to the run that is gone on with; give a new one back where nothing began."""
        if not self.trainer.is_global_zero:  # asks the first process for the folder
            self.trainer.loggers = self._loggers(0)
            yield
            return
        run = self.continued or runs.begin(self.runs)
        with runs.held(run):
            self.trainer.loggers = self._loggers(runs.number(run))
            try:
                yield
            except (UsageError, MisconfigurationException):
                if not self.continued and self.trainer.global_step <= self.step:
                    runs.give_back(run)
                raise

    def _loggers(self, version: int) -> list[Logger]:
        root, purge_step = str(self.runs.parent), self.step if self.continued else None
        return [
            TensorBoardLogger(root, self.recipe, version, default_hp_metric=False, purge_step=purge_step),
            ContinuedCSVLogger(root, self.recipe, version, before_step=self.step),
        ]

    def _train(self) -> None:
        dry = getattr(self.trainer, "fast_dev_run", False)
        if self.config.lr_find and not dry and not self.checkpoint_file:  # which brings its own rate
            find_lr(self.trainer, self.model, self.datamodule, self.config.lr_find)
        log_dir = self.trainer.log_dir  # which all processes must ask for together
        if log_dir and not dry:
            rank_zero_info(f"run folder {log_dir}")
        ckpt_path = str(self.checkpoint_file) if self.checkpoint_file else None
        epochs = checkpoints.epochs_done(self.checkpoint) if ckpt_path else 0
        loop = self.trainer.fit_loop
        enough = epochs >= (loop.min_epochs or 0) and self.step >= (loop.min_steps or 0)
        if self.continued and ckpt_path and enough and checkpoints.stopped_early(self.checkpoint):
            loop.max_epochs = epochs  # Lightning would train on
        if ckpt_path and 0 < (self.trainer.max_epochs or 0) <= epochs:
            rank_zero_info("this training is finished; its report is made again")
        try:
            self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=ckpt_path, weights_only=True)
        except ValueError as error:
            if "`val_check_interval`" in str(error):
                raise UsageError(f"trainer.val_check_interval: {' '.join(str(error).split())}") from None
            raise
        if not dry:
            complain(
                Analysis.of(self.trainer, self.model),
                "the training is finished and kept; "
                f"{hardware.repeatable('evaluate', '--ckpt_path', str(log_dir))} makes its report again",
            )

    def _stopped(self, stop: Interrupted) -> BaseException:
        """Return what a signal leads to, with what is kept and how to go on."""
        if self.trainer.global_rank and processes.started_by_lightning(self.trainer.strategy):
            return SystemExit(0)  # it has not failed; the first process tells the user
        advice = stop.advice
        if not advice and self._saver:  # during the report nobody has given the job back yet
            advice = self._saver.signals.requeue(self.trainer, stop.signum)
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
        run, rest = saver.file.parent.parent, without(self.given, "--ckpt_path")
        again = hardware.repeatable("fit", *rest, "--ckpt_path", str(run) if self.logs else str(saver.file))
        return f"saved in {saver.file}; go on with\n{again}"


def _no() -> bool:
    return False


def complain(analysis: Analysis, remedy: str) -> None:
    """Fail if parts of the report could not be made; `remedy` says what is safe and what to do."""
    if analysis.problems:
        raise RunError(
            f"parts of the report could not be made: {', '.join(analysis.problems)}; the reasons are above, and in "
            f"full in the report's problems.txt; {remedy}"
        )


def option_values(args: Sequence[str], *flags: str) -> list[str]:
    """Return what is given for an option, before the arguments are parsed."""
    names = {position: value for position, (flag, value) in enumerate(itertools.pairwise(args)) if flag in flags}
    names |= {i: arg.split("=", 1)[1] for i, arg in enumerate(args) if arg.startswith(tuple(f"{f}=" for f in flags))}
    return [names[position] for position in sorted(names)]


def without(args: Sequence[str], *flags: str) -> list[str]:
    """Return the arguments without some options and their values."""
    left, skip = [], False
    for arg in args:
        if not skip and arg.split("=")[0] not in flags:
            left.append(arg)
        skip = not skip and arg in flags
    return left


def _recipe(args: Sequence[str]) -> str:
    """Return the name of the last `--config` file, for the run's folder; that of a run belongs to its recipe."""
    names = option_values(args, "-c", "--config")
    path = Path(os.path.abspath(names[-1])) if names else Path("run")
    name = path.parent.parent.name if re.fullmatch(r"version_\d+", path.parent.name) else path.stem
    return re.sub(r"[^\w.-]", "_", name)[:100].lstrip(".") or "run"  # `..` would be the folder above
