"""The command line of `evaluate`: a checkpoint, images with labels, and the parts of the report."""

import os
from argparse import SUPPRESS, ArgumentError
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from itertools import zip_longest
from typing import Any

import numpy as np
import yaml
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.callbacks.evaluation import evaluate_network
from cifar_lit.callbacks.history import EpochHistory
from cifar_lit.callbacks.report import ReportCallback, find_report
from cifar_lit.cli import trainer as builder
from cifar_lit.cli.arguments import LINKS, add_links, add_report, parse_error
from cifar_lit.cli.checks import as_list
from cifar_lit.cli.options import GROUPS
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models import temperature, weights
from cifar_lit.models.resnet import smallest_strided
from cifar_lit.report.epochs import EpochRow, read_epochs
from cifar_lit.report.provenance import Provenance, data_options, flat
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.training import compat, run_folder
from cifar_lit.utils import commands, hardware
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import check_new_folder, new_folder
from cifar_lit.utils.text import counted

REPORT = {name: group for name, group in GROUPS.items() if issubclass(group, ReportCallback)}
DATA = {"source", "root", "image_size", "train_eval_size", "num_workers", "mirrors", "cache_dir"}
USAGE = "python -m cifar_lit.evaluate RUN [--OPTION VALUE ...]"


def build_parser() -> ArgumentParser:
    """Return the parser."""
    parser = ArgumentParser(
        prog="python -m cifar_lit.evaluate",
        usage=USAGE,
        description="Create the report of a run or a checkpoint again, on its own test images or on others of its "
        "classes: with --data.source folder, ROOT/test/CLASS/ or ROOT/CLASS/ is enough. Options that are not given are "
        "those of the run.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="Folder of a run (lightning_logs/RECIPE/version_N), for its best weights, options and data, or a .ckpt "
        "file. No code from it runs.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder for the report. Default: a new `evaluation_N` in the run's folder, or next to the file.",
    )
    add_report(parser)
    every = ArgumentParser()
    every.add_class_arguments(ImageDataModule, "data")
    skip = {name.removeprefix("data.") for name in vars(every.get_defaults().as_flat())} - DATA
    parser.add_class_arguments(ImageDataModule, "data", skip=skip, instantiate=False)
    for name, group in REPORT.items():
        parser.add_class_arguments(group, name, skip={*group.python_only})
    trainer = parser.add_argument_group("Device, limits and further parts of the report")
    trainer.add_argument("--trainer.accelerator", type=str, default="auto", help="`auto`, `cpu`, `gpu`, ...")
    trainer.add_argument(
        "--trainer.precision",
        type=str | int | None,
        default=None,
        help="Default: the fastest safe one, as in training.",
    )
    for split in ("test", "train"):
        limit = "Number of batches or fraction of images; default: all."
        trainer.add_argument(f"--trainer.limit_{split}_batches", type=int | float | None, default=None, help=limit)
    trainer.add_argument(
        "--trainer.callbacks", type=list[ReportCallback] | None, default=None, help="ReportCallbacks of your own."
    )
    add_links(parser)
    for name in ("data", *REPORT, *(target for _, target in LINKS)):  # files for a group; options that cannot be set
        compat.set_help(parser, name, SUPPRESS)
    return parser


class Evaluation:
    """A checkpoint and the images to evaluate it on.

    The training images are evaluated, too, if they are those of the run; no others are needed than test images.

    Args:
        args: Command-line arguments.

    Raises:
        UsageError: The run, an option or the images cannot be used.
    """

    def __init__(self, args: Sequence[str]) -> None:
        compat.hide_warnings()
        compat.configure_jsonargparse()
        parser = build_parser()
        given = _parse(parser, args)
        check_new_folder(given.out)
        file = weights.find(given.run, "RUN")
        self.checkpoint = weights.read(file, "RUN")  # before the data, which may have to be downloaded
        self.network = weights.build_network(self.checkpoint, file, "RUN")
        self.file = file.absolute()
        checkpoints = next((one for one in self.file.parents if one.name == "checkpoints"), self.file.parent)
        run = checkpoints.parent
        config = run_folder.parts(run, "config.yaml")[-1]
        known = checkpoints.name == "checkpoints" and config.is_file()
        self.folder = run if known else self.file.parent  # of the run, or of a checkpoint that belongs to no run
        saved = yaml.safe_load(config.read_text(encoding="utf-8")) if known else {}
        saved["data"] = data_options(run, saved) if known else {"image_size": self.network.image_size}
        options = flat(saved)
        options["trainer.callbacks"] = [one for one in as_list(options.get("trainer.callbacks")) if _is_part(one)]
        options.pop("trainer.accelerator", None)  # of the machine that trained it
        names = vars(parser.get_defaults().as_flat())
        parser.set_defaults({name: value for name, value in options.items() if name in names})
        self.options = _parse(parser, args)
        built = parser.instantiate_classes(self.options)
        self.changed = {k: v for k, v in vars(self.options.data).items() if v != saved["data"].get(k)}
        self.saved_data = saved["data"]
        self.data = ImageDataModule(**saved["data"] | self.changed)
        self.data.load_state_dict(self.checkpoint["ImageDataModule"])  # the device that augmented its images
        self._load_data(known)
        hardware.configure_torch()
        smallest = smallest_strided(self.data.image_size, self.checkpoint["hyper_parameters"]["stem"])
        self.trainer = builder.build(
            [*(built[name] for name in REPORT), *(built.trainer.callbacks or [])],
            accelerator=self.options.trainer.accelerator,
            devices=1,
            precision=builder.choose_precision(self.options.trainer, smallest),
            limit_test_batches=self.options.trainer.limit_test_batches,
            limit_train_batches=self.options.trainer.limit_train_batches,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )

    def _load_data(self, known: bool) -> None:
        """Load the images; refuse other classes than those of the checkpoint."""
        data, theirs = self.data, self.network.classes
        own = "root" not in self.changed and os.path.isdir(os.path.join(os.path.expanduser(data.root), "train"))
        data.test_only = not known or (data.source == "folder" and not own)
        data.network_classes = theirs
        ours = data.splits.classes
        if theirs != ours:
            there, here = next(pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1])
            raise UsageError(
                f"RUN {self.file}: it was trained on other classes than those of this data set ({there!r} instead of "
                f"{here!r}; {len(theirs)} classes instead of {len(ours)}); use data (--data.source, --data.root) with "
                f"images of the classes {', '.join(theirs[:10])}{', ...' * (len(theirs) > 10)}"
            )
        counts = np.bincount(data.splits.test.labels, minlength=len(theirs))
        if absent := [name for name, count in zip(theirs, counts, strict=True) if not count]:
            names = ", ".join(absent[:5]) + ", ..." * (len(absent) > 5)
            rank_zero_info(f"no test images of {counted(len(absent), 'class')}, which have no accuracy: {names}")
        if not data.test_only and data.splits.train.fingerprint != self.checkpoint["ImageDataModule"]["train"]:
            rank_zero_info("the training images are not those of this run; only the test images are evaluated")
            data.test_only = True

    def evaluate(self) -> RunResults:
        """Evaluate the checkpoint; nothing is written."""
        checkpoint, needs = self.checkpoint, find_report(self.trainer).needs
        rows = checkpoint.get("callbacks", {}).get(EpochHistory.__qualname__, {}).get("rows", [])
        until_checkpoint = tuple(EpochRow(**row) for row in rows)  # the run's report also has those after it
        provenance = Provenance.load(self.folder) if (self.folder / "provenance.json").exists() else None
        results = evaluate_network(
            self.trainer,
            self.data,
            self.network.net,
            name=run_folder.run_name(self.folder),
            weights=f"{self.file.stem} weights, epoch {checkpoint['epoch'] + 1}",
            checkpoint=self.file,
            epochs=max(read_epochs(self.folder / "report" / "history.csv"), until_checkpoint, key=len),
            provenance=provenance,
            needs=needs,
            stored=temperature.find(self.file.parent, self.network.fingerprint) if needs.val else None,
            evidence=find_report(self.trainer).plan,
        )
        return replace(results, provenance=replace(results.provenance, report_command=commands.command()))

    def report(self, results: RunResults) -> None:
        """Write all parts of the report.

        Raises:
            RunError: Parts of it failed; the others are complete.
        """
        writer = ReportWriter(new_folder(self.options.out, "evaluation", self.folder), checkpoints=self.file.parent)
        find_report(self.trainer).write(results, writer)
        options = {name: value for name, value in self.options.as_dict().items() if name not in ("run", "out")}
        changed = {k: os.path.abspath(v) if k in run_folder.PATHS else v for k, v in self.changed.items()}
        writer.text("config.yaml", yaml.safe_dump(options | {"data": self.saved_data | changed}, sort_keys=False))
        writer.raise_if_failed("the other parts are complete")


def _is_part(callback: dict[str, Any]) -> bool:
    """Return whether an item of `trainer.callbacks` is a part of the report; True if it cannot be imported."""
    module, _, name = callback["class_path"].rpartition(".")
    try:
        return issubclass(getattr(import_module(module), name), ReportCallback)
    except (ImportError, AttributeError):
        return True


def _parse(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """Parse arguments, with short errors."""
    try:
        options: Namespace = parser.parse_args(args)
    except ArgumentError as error:
        names = vars(parser.get_defaults(skip_validation=True).as_flat())
        first, *_ = str(parse_error(str(error), names)).splitlines()
        raise UsageError(f"{first}; usage: {USAGE}\n--help lists all options") from None
    return options
