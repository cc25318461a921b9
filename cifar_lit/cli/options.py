"""The command line of `fit`: Lightning's CLI with our groups of options."""

import os
from argparse import ArgumentError
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit import callbacks
from cifar_lit.callbacks.report import find_report
from cifar_lit.cli import recipes, resume
from cifar_lit.cli import trainer as builder
from cifar_lit.cli.arguments import add_group, add_links, add_report, parse_error, take
from cifar_lit.cli.callbacks import check_callbacks
from cifar_lit.cli.checks import check, check_batch, check_launched
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.training import compat, distributed, run_folder, torchrun
from cifar_lit.training.checkpointing import LastCheckpoint
from cifar_lit.training.run import Start, Training
from cifar_lit.utils import commands, hardware, slurm
from cifar_lit.utils.errors import UsageError

TENSORBOARD = "cifar_lit.training.loggers.RunTensorBoardLogger"
GROUPS = {
    "data": ImageDataModule,
    "model": ImageClassifier,
    "checkpoint": LastCheckpoint,
    "misclassified": callbacks.MisclassifiedImages,
    "samples": callbacks.SampleImages,
    "scores": callbacks.Scores,
    "evidence": callbacks.Evidence,  # takes minutes: after what is known without it, before what uses it
    "gradcam": callbacks.GradCAMGrid,
    "page": callbacks.HTMLReport,
    "projector": callbacks.Projector,
    "trainer": Trainer,
}
# Options that are classes of Lightning, or of the user.
BUILT = {"trainer.callbacks": Callback, "trainer.logger": Logger, "trainer.profiler": Profiler}
BUILT |= {"trainer.strategy": Strategy, "trainer.accelerator": Accelerator}


class FitCLI(LightningCLI):
    """Parses and checks the options, and builds data, module and trainer.

    Args:
        args: Command-line arguments. Without `--config` the default recipe is used.
    """

    prog = "python -m cifar_lit.fit"
    description = "Train a ResNet-18, list the images that it misclassifies, and show why."

    failure: UsageError | None = None  # while the object of an option was created

    def __init__(self, args: Sequence[str]) -> None:
        given, self.options = take(args, "-c", "--config")
        self.recipes = [str(recipes.find(recipe)) for recipe in given]
        files = self.recipes or [str(recipes.find(recipes.DEFAULT))]
        self.recipe = recipes.recipe_name(files[-1])
        compat.hide_warnings()
        slurm.tidy_variables()
        distributed.end_with_parent()
        compat.configure_jsonargparse()
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            save_config_callback=callbacks.SaveProvenance,
            save_config_kwargs={"save_to_log_dir": False},  # SaveProvenance writes the files
            trainer_class=builder.build,
            seed_everything_default=0,
            parser_kwargs={
                "allow_abbrev": False,  # a misspelled option must not be accepted as an abbreviation
                "exit_on_error": False,
                "prog": self.prog,
                "usage": "%(prog)s [--config RECIPE] [--OPTION VALUE ...]",
                "description": f"{self.description} Every option can be set in a recipe (--config; several are "
                f"merged) or on the command line, which overrides the recipe. The default recipe is {recipes.DEFAULT}. "
                "The defaults below apply to options that the recipe does not set; --print_config shows all values.",
            },
            args=with_configs(files, self.options),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser with our help for `--config`."""
        parser = super().init_parser(**kwargs)
        compat.set_help(parser, "config", recipes.usage())
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, on top of the options of a run to resume; check them before the data are loaded."""
        given = self.parse(parser, args)
        self.logs = Path(os.path.expanduser(given.trainer.default_root_dir or ".")) / "lightning_logs"
        self.start = Start(self.find_run(given.ckpt_path))
        resume.check_checkpoint(self.start)
        self.config = given
        if self.start.run:
            config = str(run_folder.parts(self.start.run, "config.yaml")[-1])
            recipes.check(Path(config))
            saved = self.parse(parser, ["--config", config], saved=config)
            merged = self.parse(parser, with_configs([config, *self.recipes], self.options))
            self.config = resume.merge(self.start.run, saved, given, merged)
        self.config.ckpt_path = None  # a run's config.yaml is the recipe of a new one
        check(self.config)
        check_callbacks(self.config, parser)
        if self.start.run:
            resume.find_data(self.start.run, saved, self.config)

    def parse(self, parser: LightningArgumentParser, args: Any, saved: str = "") -> Namespace:
        """Parse arguments, with short errors."""
        try:
            config: Namespace = parser.parse_args(args)
        except ArgumentError as error:
            options = [*vars(parser.get_defaults(skip_validation=True).as_flat()), "model.optimizer"]  # has no default
            raise parse_error(str(error), options, saved) from None
        defaults = parser.get_defaults(skip_validation=True)
        for group in GROUPS:  # a value instead of the group; a linked option may have made it a group again
            if not isinstance(config[group], Namespace) or vars(defaults[group]).keys() - vars(config[group]).keys():
                raise UsageError(f"{group} is a group of options; set {group}.NAME, --help lists them")
        return config

    def find_run(self, ckpt_path: str | None) -> Path | None:
        """Return the run to resume; that of a job or processes started again by SLURM or torchrun, if it is one."""
        if distributed.is_child():
            return distributed.run_of_parent()
        run = torchrun.restarted_run()
        run = run or run_folder.requeued(self.logs / self.recipe, commands.command())
        if run or not ckpt_path:
            return run
        if ckpt_path == "auto":
            return run_folder.newest(self.logs, self.recipe)
        return run_folder.find(ckpt_path, self.logs, self.recipe if self.recipes else None)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add all options, ours before the Trainer's."""
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=resume.HELP)
        parser.add_argument(
            "--lr_find",
            type=int,
            default=0,
            help="Steps of a learning rate range test (arXiv 1506.01186) before training, 9 or more, usually 100; it "
            "replaces the optimizer's lr with the learning rate at which the smoothed loss is lowest. 0 turns it off. "
            "A resumed run keeps its learning rate.",
        )
        parser.add_argument(
            "--process_timeout",
            type=int,
            default=600,
            help="Seconds, 1 or more, to wait for another training process, or for the next batch of the worker "
            "processes, before the run ends with an error.",
        )
        add_report(parser)
        for name, group in GROUPS.items():
            add_group(parser, name, group)
        compat.set_instantiators(parser, [(partial(self.create, name), kind, True) for name, kind in BUILT.items()])
        parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.logger": [{"class_path": TENSORBOARD}]})
        add_links(parser)
        parser.link_arguments("process_timeout", "data.process_timeout")
        for name in ("num_classes", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("data", "model.classes", lambda data: data.splits.classes, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Read the checkpoint before the data, which may have to be downloaded."""
        if self.start.run:
            rank_zero_info(f"resuming {self.start.run}" + ("" if self.start.file else ", which has no checkpoint yet"))

    def create(self, option: str, kind: type[Any], *args: Any, **kwargs: Any) -> Any:
        """Create the object of an option, and keep the error if that fails."""
        if kind in GROUPS.values():
            return kind(*args, **kwargs)
        try:
            return kind(*args, **kwargs)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.failure = UsageError(f"{option}: {kind.__name__} cannot be created ({reason})")
            raise

    def instantiate_classes(self) -> None:
        """Create all objects; replace jsonargparse's hundred lines of all types that an option accepts."""
        weights = self.config.model.weights
        if self.start.checkpoint:
            self.config.model.weights = None  # those of the checkpoint replace them
        try:
            super().instantiate_classes()
            self.config.model.weights = weights  # for config.yaml
        except UsageError:
            raise
        except Exception:
            if self.failure:
                raise self.failure from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Check the data before anything is written, and build the trainer."""
        self.datamodule.setup("fit")
        resume.check_same_images(self.start, self.datamodule)
        hardware.configure_torch()
        self.process_timeout = timedelta(seconds=self.config.process_timeout)
        distributed.set_timeout(self.process_timeout)
        options = builder.defaults(self.config, self.config_init.trainer)
        trainer: Trainer = super().instantiate_trainer(**options, **kwargs)
        check_launched(trainer)
        if self.start.run:
            resume.check_processes(self.start, self.datamodule, trainer)
        return trainer

    def fit(self) -> None:
        """Train; the callbacks report.

        Raises:
            RunError: The training failed, or parts of the report.
        """
        options = self.config.model
        check_batch(self.datamodule, self.trainer.world_size, options.norm, options.stem)
        run = Training(
            self.trainer,
            self.model,
            self.datamodule,
            start=self.start,
            runs=self.logs / self.recipe,
            config=self.parser.dump(self.config, skip_unset=False),
            args=with_configs(self.recipes, self.options),
            lr_find=0 if self.config.trainer.fast_dev_run else self.config.lr_find,
            record_lr_range=find_report(self.trainer).record_lr_range,
            process_timeout=self.process_timeout,
        ).run()
        advice = "a complete training would fail in the same way after its last epoch"
        if run:
            command = commands.repeatable("evaluate", str(run))
            advice = f"the training is finished and saved; {command} creates its report again"
        find_report(self.trainer).raise_if_failed(advice)


def with_configs(configs: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return arguments with the configuration files first: a file overrides the options before it."""
    return [*(part for config in configs for part in ("--config", config)), *options]
