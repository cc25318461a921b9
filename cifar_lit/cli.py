"""The command line: Lightning's CLI with our groups, our defaults, and short errors."""

import itertools
import json
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.tensorboard.summary import hparams

from cifar_lit import callbacks, checkpoints, hardware
from cifar_lit.analysis import Analysis
from cifar_lit.data import PictureData
from cifar_lit.errors import RunError, UsageError
from cifar_lit.loggers import ContinuedCSVLogger
from cifar_lit.lr_finder import find_lr
from cifar_lit.module import ImageClassifier
from cifar_lit.parser import Parser
from cifar_lit.report import ReportCallback, WholeReport
from cifar_lit.screen import History, ProgressBar, silence_noise

HYPERPARAMETERS = ("model.", "data.", "seed_everything", "trainer.max_epochs", "trainer.precision", "lr_find")
DEFAULT_RECIPE = Path(__file__).parent.parent / "configs" / "onecycle.yaml"


class SaveRun(SaveConfigCallback):
    """Writes `config.yaml` and, beside it, `run.json`: command, commit, versions, hardware; tells TensorBoard of it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder, which all processes must ask for together: save_config runs in one of them."""
        self.folder = Path(trainer.log_dir or trainer.default_root_dir)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `run.json`."""
        name = self.config_filename.replace("config", "run").replace(".yaml", ".json")
        notes = {**hardware.describe(), "precision": trainer.precision, "processes": trainer.world_size}
        (self.folder / name).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell TensorBoard's HParams, by the options' names, what led to the final figures."""
        options = {
            name: value if isinstance(value, int | float | str) else str(value)
            for prefix in HYPERPARAMETERS  # their order is that of the columns
            for name, value in vars(self.config.as_flat()).items()
            if name.startswith(prefix) and value is not None
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                metrics = dict.fromkeys(callbacks.Scores.FINAL, 0.0)  # only the names count
                for summary in hparams(options, metrics):  # type: ignore[no-untyped-call]  # torch has no types here
                    logger.experiment._get_file_writer().add_summary(summary)


class NoProfiler(PassThroughProfiler):
    """Measures nothing, as Lightning's own, but without a new generator for it a hundred times a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Do nothing around an action."""
        return self._nothing


class FitCLI(LightningCLI):
    """Parses, checks, builds data, module and trainer; `fit` trains.

    Args:
        args: Command-line arguments. Without a `--config` among them the default recipe is taken.
    """

    prog = "python -m cifar_lit.fit"
    description = "Train a ResNet-18, show what it gets wrong, and show why."
    ckpt_path_help = (
        "Checkpoint to go on from: a file; `last`, to continue the recipe's newest run in its folder; or `best`, of "
        "the newest run. Loaded without running code from it."
    )

    def __init__(self, args: Sequence[str]) -> None:
        given = list(args)
        if not option_values(given, "-c", "--config"):
            given = ["--config", str(DEFAULT_RECIPE), *given]
        self.recipe = _recipe(given)
        silence_noise()
        super().__init__(
            ImageClassifier,
            PictureData,
            save_config_callback=SaveRun,
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
        self.config = parser.parse_args(args)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add all options, our own before the Trainer's many."""
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=self.ckpt_path_help)
        parser.add_argument(
            "--lr_find",
            type=int,
            default=0,
            help="Steps of a learning-rate range test (arXiv 1506.01186) before training, 0 or more, usually 100; "
            "the rate it finds takes the place of the optimizer's lr. 0 turns it off.",
        )
        parser.add_lightning_class_args(PictureData, "data")
        parser.add_lightning_class_args(ImageClassifier, "model")
        parser.add_lightning_class_args(callbacks.MisclassifiedPictures, "misclassified")
        parser.add_lightning_class_args(callbacks.GradCAMPictures, "gradcam")
        parser.add_lightning_class_args(callbacks.SamplePictures, "samples")
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
        if config.lr_find < 0:
            raise UsageError(f"lr_find must be 0 or more, got {config.lr_find}")
        if config.lr_find and config.ckpt_path:
            raise UsageError(
                "lr_find has no effect with ckpt_path: the checkpoint brings its own rate; give one of them"
            )
        if config.trainer.overfit_batches:
            raise UsageError(
                "trainer.overfit_batches would put a sampler of its own in place of the project's; give a small "
                "trainer.limit_train_batches instead"
            )
        for name in ("limit_train_batches", "limit_test_batches"):
            if config.trainer[name] == 0:
                raise UsageError(f"trainer.{name}=0 leaves nothing to report on; give 1 or more, or a share above 0.0")
        if config.data.val_size == 0:
            self._refuse_validation_metrics()
        self.checkpoint_file = self._find_checkpoint()

    def _find_checkpoint(self) -> Path | None:
        return checkpoints.find(self.config.ckpt_path, self.runs) if self.config.ckpt_path else None

    def _refuse_validation_metrics(self) -> None:
        config = self.config
        need = ["model.schedule.name=plateau"] if config.model.schedule.name == "plateau" else []
        for callback in _as_list(config.trainer.callbacks):
            monitor = str((callback.get("init_args") or {}).get("monitor", ""))
            if monitor.startswith("val/"):
                need.append(f"trainer.callbacks: {callback.class_path.rsplit('.')[-1]} with monitor={monitor}")
        if need:
            raise UsageError(f"data.val_size=0 leaves no validation, but it is needed by {'; '.join(need)}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers, checkpoints and callbacks of ours, choose the precision, check the checkpoint."""
        trainer = self.config_init.trainer
        self.datamodule.setup("fit")  # what is wrong with the data is said before anything is written
        step = 0
        if self.checkpoint_file:
            self.checkpoint = checkpoints.read(self.checkpoint_file)
            checkpoints.check_fits(self.checkpoint, self.checkpoint_file, self.model)
            checkpoints.check_classes(self.checkpoint, self.checkpoint_file, self.datamodule.pictures.classes)
            step = self.checkpoint["global_step"]
        if trainer.precision is None:
            kwargs["precision"], device = hardware.choose_precision(str(trainer.accelerator))
            rank_zero_info(
                f"device {device}; precision {kwargs['precision']} (trainer.precision), memory format "
                f"{self.config.model.memory_format} (model.memory_format)"
            )
        if trainer.logger is None or trainer.logger is True:
            kwargs["logger"] = self._loggers(step)
        elif trainer.logger is False:
            self.save_config_callback = None  # there is no run folder that could hold it
        if trainer.benchmark is None and not trainer.deterministic:
            kwargs["benchmark"] = True  # cuDNN tries its convolutions: all batches but the last have one shape
        if trainer.profiler is None:
            kwargs["profiler"] = NoProfiler()
        if trainer.enable_progress_bar is None and not sys.stderr.isatty():
            kwargs["enable_progress_bar"] = False  # a log file gets the line of each epoch, not a thousand bars
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks_: list[Callback]) -> Trainer:
        parts = [one for one in callbacks_ if isinstance(one, ReportCallback)]
        page = [one for one in parts if isinstance(one, callbacks.Page)]  # sums up what the others made
        pictures = [one for one in parts if one not in page]
        report = WholeReport([*pictures, callbacks.Scores(), callbacks.Curves(), *page, callbacks.Summary()])
        ours: list[Callback] = [History(), *(one for one in callbacks_ if one not in parts), report]
        if config.get("enable_progress_bar") is not False:
            ours.append(ProgressBar())
        if config.get("enable_checkpointing") is not False:
            # Two, because one that keeps the best writes `last` only when the best changes; the best first, so that
            # what it knows of the epoch goes into `last`.
            if self.config.data.val_size:
                best = ModelCheckpoint(
                    filename="best", monitor="val/accuracy", mode="max", enable_version_counter=False
                )
                ours.append(best)
            ours.append(ModelCheckpoint(filename="last", save_on_train_epoch_end=True, enable_version_counter=False))
        try:
            return super()._instantiate_trainer(config, ours)
        except (ImportError, TypeError, ValueError, MisconfigurationException) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}; change that trainer option") from None

    def _loggers(self, step: int) -> list[Logger]:
        """Log to the next free `version_N`, or to that of the run which `--ckpt_path last` continues."""
        root = str(self.runs.parent)
        if self.config.ckpt_path == "last" and self.checkpoint_file:
            run = self.checkpoint_file.parent.parent
            version = int(run.name.removeprefix("version_"))
            parts = len(list(run.glob("config*.yaml")))  # what the run was begun with stays as it is
            self.save_config_kwargs = {"config_filename": f"config_{parts + 1}.yaml"}
        else:
            taken = checkpoints.versions(self.runs)
            version = int(taken[-1].name.removeprefix("version_")) + 1 if taken else 0
        return [
            TensorBoardLogger(root, self.recipe, version, default_hp_metric=False, purge_step=step or None),
            ContinuedCSVLogger(root, self.recipe, version, before_step=step),
        ]

    def fit(self) -> None:
        """Find the learning rate if asked to, train, and let the callbacks report."""
        torch.set_float32_matmul_precision("high")  # TF32 where the device has it
        if self.trainer.strategy.root_device.type == "cpu":
            hardware.keep_freed_memory()
        if self.config.lr_find:
            find_lr(self.trainer, self.model, self.datamodule, self.config.lr_find)
        if self.trainer.log_dir and self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            rank_zero_info(f"run folder {self.trainer.log_dir}")
        ckpt_path = str(self.checkpoint_file) if self.checkpoint_file else None
        if ckpt_path and 0 < (self.trainer.max_epochs or 0) <= self.checkpoint["epoch"] + 1:
            rank_zero_info("this training is finished; its report is made again")
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=ckpt_path, weights_only=True)
        if not getattr(self.trainer, "fast_dev_run", False):
            complain(
                Analysis.of(self.trainer, self.model),
                f"the training is finished and kept; python -m cifar_lit.evaluate --ckpt_path {self.trainer.log_dir} "
                "makes its report again",
            )


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


def _recipe(args: Sequence[str]) -> str:
    """Return the name of the last `--config` file, for the run's folder; that of a run belongs to its recipe."""
    names = option_values(args, "-c", "--config")
    path = Path(names[-1]).absolute() if names else Path("run")
    name = path.parent.parent.name if re.fullmatch(r"version_\d+", path.parent.name) else path.stem
    return re.sub(r"[^\w.-]", "_", name)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []
