"""The command line of `fit`: Lightning's CLI with our groups of options."""

from argparse import ArgumentError
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from cifar_lit import callbacks
from cifar_lit.callbacks.report import find_report
from cifar_lit.cli import recipes, resume
from cifar_lit.cli import trainer as builder
from cifar_lit.cli.arguments import ADVICE, parse_error, take, without
from cifar_lit.cli.checks import check
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.training import checkpoint_files, compat, distributed
from cifar_lit.training.checkpointing import LastCheckpoint
from cifar_lit.training.run import Start, Training
from cifar_lit.utils import hardware
from cifar_lit.utils.errors import UsageError

GROUPS = {
    "data": ImageDataModule,
    "model": ImageClassifier,
    "checkpoint": LastCheckpoint,
    "misclassified": callbacks.MisclassifiedImages,
    "gradcam": callbacks.GradCAMGrid,
    "samples": callbacks.SampleImages,
    "scores": callbacks.Scores,
    "page": callbacks.HTMLReport,
    "projector": callbacks.Projector,
    "trainer": Trainer,
}


class FitCLI(LightningCLI):
    """Parses and checks the options, and builds data, module and trainer.

    Args:
        args: Command-line arguments. Without `--config` the default recipe is used.
    """

    prog = "python -m cifar_lit.fit"
    description = "Train a ResNet-18, list the images that it misclassifies, and show why."
    ckpt_path_help = (
        "Checkpoint to resume from: the folder of a run of this recipe, which is resumed there; `last`, to resume "
        "the newest run; or, for a new run, a .ckpt file, or `best`, that of the newest run. Loaded without running "
        "code from it."
    )

    def __init__(self, args: Sequence[str]) -> None:
        given, others = take(args, "-c", "--config")
        files = [recipes.find(recipe) for recipe in given or [recipes.DEFAULT]]
        self.args = args
        self.recipe = recipes.recipe_name(files[-1])
        compat.hide_warnings()
        compat.secure_jsonargparse()
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
            # Recipes first: a recipe overrides the options before it.
            args=[*(part for file in files for part in ("--config", str(file))), *others],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser with our help for `--config`."""
        parser = super().init_parser(**kwargs)
        next(action for action in parser._actions if action.dest == "config").help = recipes.usage()
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, with short errors, and check what can be checked before the data are loaded."""
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            options = vars(parser.get_defaults(skip_validation=True).as_flat())
            raise parse_error(str(error), options) from None
        except UnicodeDecodeError as error:
            raise UsageError(f"--config: the file is not UTF-8 text ({error}); {ADVICE['config']}") from None
        for group in GROUPS:
            if not isinstance(self.config[group], Namespace):
                raise UsageError(f"{group} is a group of options; set {group}.NAME, --help lists them")
        check(self.config)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add all options, ours before the Trainer's."""
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=self.ckpt_path_help)
        parser.add_argument(
            "--lr_find",
            type=int,
            default=0,
            help="Steps of a learning-rate range test (arXiv 1506.01186) before training, 0 or more, usually 100; it "
            "replaces the optimizer's lr with the learning rate at which the smoothed loss is lowest. 0 turns it off. "
            "A run that starts from a checkpoint keeps its learning rate.",
        )
        parser.add_argument(
            "--process_timeout",
            type=int,
            default=600,
            help="With several processes: seconds, 1 or more, that a process waits for another that does not answer "
            "before the run ends with an error.",
        )
        for name, group in GROUPS.items():
            parser.add_lightning_class_args(group, name)
        parser.set_defaults({"trainer.num_sanity_val_steps": 0})
        parser.link_arguments("misclassified.k", "gradcam.k")  # Grad-CAM explains the same images
        parser.link_arguments("gradcam.method", "page.method")
        for name in ("num_classes", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint."""
        self.runs = Path(self.config.trainer.default_root_dir or ".") / "lightning_logs" / self.recipe
        self.start = self.find_start()
        _ = self.start.checkpoint  # read it before the data, which may have to be downloaded
        if self.start.run:
            resume.check_source(self.start.run, self.config.data.source)
        elif self.start.file:
            self.config.ckpt_path = str(self.start.file)  # for config.yaml: `best` may be another file later

    def find_start(self) -> Start:
        """Return where the training starts."""
        from_env = distributed.resume_from_env()
        return Start(*from_env) if from_env else resume.find(self.config.ckpt_path, self.runs)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Check the data and the checkpoint before anything is written, and build the trainer."""
        trainer, start = self.config_init.trainer, self.start
        self.datamodule.setup("fit")
        splits = self.datamodule.splits
        if start.file:
            checkpoint_files.check_classes(start.checkpoint, start.file, splits.classes)
            checkpoint_files.check_fits(start.checkpoint, start.file, self.model)
            if start.resumes:
                checkpoint_files.check_same_images(start.checkpoint, start.file, splits.train)
        if trainer.logger is False:
            self.save_config_callback = None  # there is no run folder
        self.own_loggers = trainer.logger is None or trainer.logger is True
        if self.own_loggers:
            kwargs["logger"] = False  # until the run has its folder
        torch.set_float32_matmul_precision("high")  # TF32 where the device supports it
        self.process_timeout = timedelta(seconds=self.config.process_timeout)
        distributed.set_timeout(self.process_timeout)
        return super().instantiate_trainer(**builder.defaults(self.config, trainer), **kwargs)

    def fit(self) -> None:
        """Train; the callbacks report.

        Raises:
            RunError: The training failed, or parts of the report.
        """
        args = without(self.args, "--ckpt_path")
        writes = not self.config.trainer.fast_dev_run
        run = Training(
            self.trainer,
            self.model,
            self.datamodule,
            start=self.start,
            runs=self.runs,
            logs=self.own_loggers and writes,
            lr_find=self.config.lr_find if writes else 0,
            record_lr_range=find_report(self.trainer).record_lr_range,
            process_timeout=self.process_timeout,
            resume_command=lambda checkpoint: hardware.repeatable("fit", *args, "--ckpt_path", str(checkpoint)),
        ).run()
        if writes:
            command = hardware.repeatable("evaluate", "--ckpt_path", str(run))
            advice = f"the training is finished and saved; {command} creates its report again"
            find_report(self.trainer).raise_if_failed(advice)
