"""The command line: Lightning's CLI with our groups, our defaults, and short errors."""

import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
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
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit import callbacks
from cifar_lit.callbacks.history import EpochHistory
from cifar_lit.callbacks.progress import ProgressBar
from cifar_lit.callbacks.provenance import SaveRun
from cifar_lit.callbacks.report import CombinedReport, ReportCallback
from cifar_lit.cli import resume as start
from cifar_lit.cli.arguments import recipe_name, recipes_first
from cifar_lit.cli.checks import as_list, check, check_seed
from cifar_lit.cli.parser import Parser
from cifar_lit.cli.resume import Start
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.resnet import smallest_strided
from cifar_lit.training import checkpoints
from cifar_lit.training import distributed as processes
from cifar_lit.training.checkpointing import AtomicCheckpointIO, LastCheckpoint
from cifar_lit.training.compat import silence_noise
from cifar_lit.training.run import Training
from cifar_lit.utils import hardware
from cifar_lit.utils.errors import UsageError

DEFAULT_RECIPE = Path(__file__).parents[2] / "configs" / "onecycle.yaml"
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
    """Parses, checks, builds data, module and trainer; `fit` trains with them.

    Args:
        args: Command-line arguments. Without a `--config` among them the default recipe is taken.
    """

    prog = "python -m cifar_lit.fit"
    description = "Train a ResNet-18, show what it gets wrong, and show why."
    ckpt_path_help = (
        "Checkpoint to go on from: the folder of a run of this recipe, to continue it there; `last`, for the newest "
        "one; a .ckpt file, for a new run; or `best`, the newest run's. Loaded without running code from it."
    )

    def __init__(self, args: Sequence[str]) -> None:
        self.given = tuple(args)
        given = recipes_first(args, str(DEFAULT_RECIPE))
        self.recipe = recipe_name(given)
        silence_noise()
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            save_config_callback=SaveRun,
            save_config_kwargs={"save_to_log_dir": False},  # it writes them itself
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "allow_abbrev": False,  # a misspelt option must not pass for a short one
                "prog": self.prog,
                "usage": "%(prog)s [--config RECIPE] [--OPTION VALUE ...]",
                "description": f"{self.description} Every option can stand in a recipe (--config, several are "
                "merged) or on the command line, which goes before. Without --config it is configs/onecycle.yaml; the "
                "defaults below are those of options that no recipe sets, --print_config shows what is set.",
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
            "the rate up to which the loss falls takes the place of the optimizer's lr. 0 turns it off. A training "
            "that goes on from a checkpoint keeps its own rate.",
        )
        parser.add_argument(
            "--process_timeout",
            type=int,
            default=600,
            help="Seconds, 1 or more, after which a process of several stops waiting for one that does not answer any "
            "more, and the run ends with an error.",
        )
        parser.add_lightning_class_args(ImageDataModule, "data")
        parser.add_lightning_class_args(ImageClassifier, "model")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_lightning_class_args(callbacks.MisclassifiedImages, "misclassified")
        parser.add_lightning_class_args(callbacks.GradCAMGrid, "gradcam")
        parser.add_lightning_class_args(callbacks.SampleImages, "samples")
        parser.add_lightning_class_args(callbacks.Scores, "scores")
        parser.add_lightning_class_args(callbacks.Page, "page")
        parser.add_lightning_class_args(callbacks.Projector, "projector")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({"trainer.num_sanity_val_steps": 0})
        parser.link_arguments("misclassified.k", "gradcam.k")  # the SAME images are explained
        parser.link_arguments("gradcam.method", "page.method")
        for name in ("num_classes", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Check what can be checked before the data are loaded."""
        config = self.config
        self.runs = Path(config.trainer.default_root_dir or ".") / "lightning_logs" / self.recipe
        check(config)
        self.start = self._find_start()
        _ = self.start.checkpoint  # read before the data, which may have to be downloaded first
        if self.start.run:
            start.check_source(self.start.run, config.data.source)
        elif self.start.file:
            config.ckpt_path = str(self.start.file)  # for config.yaml: `best` may be another one later

    def _find_start(self) -> Start:
        told = processes.resume_from_env()
        return Start(*told) if told else start.find(self.config.ckpt_path, self.runs)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers, checkpoints and callbacks of ours, choose the precision, check the checkpoint."""
        trainer = self.config_init.trainer
        self.datamodule.setup("fit")  # what is wrong with the data is said before anything is written
        if self.start.file:
            checkpoints.check_classes(self.start.checkpoint, self.start.file, self.datamodule.splits.classes)
            checkpoints.check_fits(self.start.checkpoint, self.start.file, self.model)
            if self.start.goes_on:
                checkpoints.check_same_images(self.start.checkpoint, self.start.file, self.datamodule.splits.train)
        if self.start.run:
            parts = len(list(self.start.run.glob("config*.yaml")))  # what the run was begun with stays as it is
            if parts:
                self.save_config_kwargs["config_filename"] = f"config_{parts + 1}.yaml"
        kwargs["precision"] = self._precision(trainer)
        self.logs = trainer.logger is None or trainer.logger is True
        if self.logs:
            kwargs["logger"] = False  # until the run has its folder
        elif trainer.logger is False:
            self.save_config_callback = None  # there is no run folder that could hold it
        torch.set_float32_matmul_precision("high")  # TF32 where the device has it
        if trainer.benchmark is None and not trainer.deterministic:
            kwargs["benchmark"] = True  # cuDNN tries its convolutions: all batches but the last have one shape
        if not any(isinstance(plugin, CheckpointIO) for plugin in as_list(trainer.plugins)):
            kwargs["plugins"] = [*as_list(trainer.plugins), AtomicCheckpointIO()]
        processes.use_local_ddp(timedelta(seconds=self.config.process_timeout))
        if trainer.profiler is None:
            kwargs["profiler"] = NoProfiler()
        if trainer.enable_progress_bar is None and not sys.stderr.isatty():
            kwargs["enable_progress_bar"] = False  # a log file gets the line of each epoch, not a thousand bars
        return super().instantiate_trainer(**kwargs)

    def _precision(self, trainer: Namespace) -> str | int:
        """Return what is given if it is safe; by default the fastest that is, and say why."""
        device = hardware.choose_device(str(trainer.accelerator))
        smallest = smallest_strided(self.config.data.image_size, self.config.model.stem)
        given: str | int | None = trainer.precision
        if given is None:
            precision, reason = hardware.choose_precision(device, smallest)
            rank_zero_info(
                f"device {reason}; precision {precision} (trainer.precision), memory format "
                f"{self.config.model.memory_format} (model.memory_format)"
            )
            return precision
        if re.search("bf16|^16", str(given)) and hardware.corrupts_bfloat16_gradients(device, smallest):
            raise UsageError(
                f"trainer.precision={given} gives wrong gradients on this CPU where the maps shrink to 1 px; give "
                "trainer.precision=32-true, a larger data.image_size or model.stem=cifar"
            )
        return given

    def _instantiate_trainer(self, config: dict[str, Any], callbacks_: list[Callback]) -> Trainer:
        parts = [one for one in callbacks_ if isinstance(one, ReportCallback)]
        page = [one for one in parts if isinstance(one, callbacks.Page)]  # sums up what the others made
        images = [one for one in parts if one not in page]
        report = CombinedReport([*images, callbacks.Curves(), *page, callbacks.Summary()])
        saver = [one for one in callbacks_ if isinstance(one, LastCheckpoint)]
        ours: list[Callback] = [EpochHistory(), *(one for one in callbacks_ if one not in [*parts, *saver]), report]
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
            reason = " ".join(str(error).split()).rstrip(".!")
            raise UsageError(f"trainer: {reason}; change that trainer option") from None
        if trainer.world_size > 1 and not isinstance(config.get("val_check_interval"), int | float | None):
            raise UsageError(
                "trainer.val_check_interval as a time goes by each process's own clock, and one that validates would "
                "wait for ever for another that still trains; give a number of steps or a share of an epoch"
            )
        # Lightning would enter an epoch that is done a second time where a training with max_steps is resumed.
        trainer.fit_loop._iteration_based_training = _no  # type: ignore[method-assign]
        return trainer

    def fit(self) -> None:
        """Train and report."""
        Training(
            self.trainer,
            self.model,
            self.datamodule,
            start=self.start,
            folder=self.runs,
            logs=self.logs,
            lr_find=self.config.lr_find,
            args=self.given,
        ).run()


def _no() -> bool:
    return False
