"""The command line of `evaluate`: that of `fit`, with the configuration of a run as the default."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from pytorch_lightning.cli import LightningArgumentParser

from cifar_lit.callbacks.evaluation import evaluate_network, run_name
from cifar_lit.callbacks.history import EpochHistory
from cifar_lit.callbacks.report import find_report
from cifar_lit.cli.arguments import take
from cifar_lit.cli.options import FitCLI
from cifar_lit.models import weights
from cifar_lit.report.results import EpochRow, Provenance, RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.training import run_folder
from cifar_lit.utils import hardware
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import new_folder

# Evaluation runs in one process, and logs nothing.
OVERRIDES = ["--lr_find=0", "--trainer.logger=false", "--trainer.devices=1", "--trainer.num_nodes=1"]
OVERRIDES += ["--trainer.strategy=auto", "--trainer.sync_batchnorm=false"]


class EvaluateCLI(FitCLI):
    """Creates the report of a checkpoint, with the configuration of its run, without training."""

    prog = "python -m cifar_lit.evaluate"
    description = "Create figures and report again from a run or a checkpoint, on its own data or on others."
    ckpt_path_help = (
        "Required. Folder of a run (lightning_logs/RECIPE/version_N), for its best weights and its config.yaml, or a "
        ".ckpt file. Loaded without running code from it."
    )

    def __init__(self, args: Sequence[str]) -> None:
        paths, _ = take(args, "--ckpt_path")
        self.file = weights.find(paths[-1]) if paths else Path()
        run = self.file.parent.parent
        config = run_folder.parts(run, "config.yaml")[-1]
        known = self.file.parent.name == "checkpoints" and config.is_file()
        self.folder = run if known else self.file.parent  # of the run, or of a checkpoint that belongs to no run
        super().__init__([*(["--config", str(config)] if known else []), *args, *OVERRIDES])

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of `fit`, and the report's folder."""
        parser.add_argument(
            "--out",
            type=str | None,
            default=None,
            help="Folder for the report. Default: a new `evaluation_N` in the run's folder, or next to the file.",
        )
        super().add_core_arguments_to_parser(parser)

    def find_run(self, ckpt_path: str | None) -> None:
        """Resume nothing."""

    def before_instantiate_classes(self) -> None:
        """Read the checkpoint before the data, which may have to be downloaded."""
        if not self.config.ckpt_path:
            raise UsageError(
                "--ckpt_path is required: a run's folder (lightning_logs/RECIPE/version_N) or a .ckpt file"
            )
        self.checkpoint = weights.read(self.file)
        self.config.model.weights = None  # those of the checkpoint replace them

    def check_data(self) -> None:
        """Refuse data of other classes than those of the checkpoint."""
        ours = list(self.datamodule.splits.classes)
        theirs = self.checkpoint.get("ImageDataModule", {}).get("classes", ours)
        if theirs != ours:
            there, here = next(pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1])
            raise UsageError(
                f"--ckpt_path {self.file}: it was trained on other classes than those of this data set ({there!r} "
                f"instead of {here!r}; {len(theirs)} classes instead of {len(ours)}); use data (data.source, "
                f"data.root) with the classes {', '.join(theirs[:10])}{', ...' * (len(theirs) > 10)}"
            )
        weights.load(self.model, self.checkpoint, self.file)

    def evaluate(self) -> RunResults:
        """Evaluate the checkpoint; nothing is written."""
        checkpoint = self.checkpoint
        self.datamodule.load_state_dict(checkpoint.get("ImageDataModule", {}))  # the device that augmented its images
        rows = checkpoint.get("callbacks", {}).get(EpochHistory.__qualname__, {}).get("rows", [])
        provenance = Provenance.load(self.folder) if (self.folder / "provenance.json").exists() else None
        results = evaluate_network(
            self.trainer,
            self.datamodule,
            self.model.net,
            name=run_name(self.folder),
            weights=f"{self.file.stem} weights, epoch {checkpoint['epoch'] + 1}",
            epochs=[EpochRow(**row) for row in rows],
            provenance=provenance,
            flip_tta=find_report(self.trainer).flip_tta,
        )
        return replace(results, provenance=replace(results.provenance, report_command=hardware.command("evaluate")))

    def report(self, results: RunResults) -> None:
        """Write all parts of the report.

        Raises:
            RunError: Parts of it failed; the others are complete.
        """
        writer = ReportWriter(new_folder(self.config.out, "evaluation", self.folder))
        find_report(self.trainer).write(results, writer)
        writer.text("config.yaml", self.parser.dump(self.config, skip_unset=False))
        writer.raise_if_failed("the other parts are complete")
