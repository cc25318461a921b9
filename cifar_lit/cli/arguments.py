"""Command-line arguments before they are parsed, and errors from parsing them."""

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from typing import Literal

from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser

from cifar_lit.utils.errors import UsageError

ADVICE = {
    "config": "--print_config prints a complete recipe",
    "model.optimizer": "use a class of torch.optim, such as SGD or AdamW",
    "page.num_road": "evidence.num_removed replaces it (0 turns it off)",
}
OTHER_NAMES = {  # of options, in other programs and in earlier versions of Lightning
    "model.optimizer": ("opt", "optimizer", "optim"),
    "model.optimizer.init_args.lr": ("lr", "learning_rate"),
    "model.optimizer.init_args.weight_decay": ("wd", "weight_decay"),
    "model.optimizer.init_args.momentum": ("momentum",),
    "trainer.max_epochs": ("epochs", "epoch", "num_epochs", "n_epochs"),
    "trainer.devices": ("gpus", "gpu", "num_gpus", "nproc"),
    "trainer.precision": ("amp", "fp16", "bf16", "half"),
    "trainer.default_root_dir": ("output", "output_dir", "out", "log_dir", "save_dir"),
    "ckpt_path": ("resume", "resume_from_checkpoint", "checkpoint", "ckpt"),
    "data.num_workers": ("workers",),
    "data.root": ("data_dir", "data_path", "data_root", "dataset_path"),
    "data.source": ("dataset", "dataset_name"),
    "model.weights": ("pretrained", "init_weights"),
    "seed_everything": ("seed", "random_seed", "manual_seed"),
}
LINKS = (
    ("misclassified.k", "gradcam.k"),  # Grad-CAM explains the same images
    ("gradcam.method", "page.method"),
    ("gradcam.method", "evidence.method"),
    ("report", "evidence.report"),
    ("scores.slices", "page.slices"),
)

# Of the class of model.optimizer, in a message of jsonargparse.
ARGUMENT = r": (?P<reason>(?:Parser key|Option) .*)\. Got value: Namespace\(class_path='(?:\w+\.)*(?P<name>\w+)'"


def take(args: Sequence[str], *flags: str) -> tuple[list[str], list[str]]:
    """Return the values given for an option, by any of its names, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(*flags, dest="values", action="append", default=[])
    try:
        known, others = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    return known.values, others


def parse_error(message: str, options: Collection[str], saved: str = "") -> UsageError:
    """Shorten an error message of jsonargparse to one line that suggests the nearest option.

    Args:
        message: From jsonargparse.
        options: Names of all options.
        saved: The `config.yaml` that was parsed, of a run to resume.
    """
    message = re.sub(r"Group '([\w.]+)' does not accept option '([\w.]+)'", r"there is no option '\1.\2'", message)
    text = re.sub(r"Errors:.*(?=Given value:)", "", _problem_with_class(message) or message, flags=re.DOTALL)
    text = re.sub(r"typing\.|<class '(.*?)'>|Parser key \"(.*?)\"(?=:)", r"\1\2", " ".join(text.split()))
    text = re.sub(r"Does not validate .* Subtypes: \[(.*)\] Given value:", r"Expected one of \1. Got value:", text)
    for name in dict.fromkeys(re.findall(r"(?:--|[Kk]ey [\"']|[Oo]ption ')([\w.-]+)", message)):
        if re.search(ARGUMENT, message, re.DOTALL):
            break  # it is not an option
        members = [option for option in options if option.startswith(f"{name}.") and not option.endswith(".help")]
        near = members or _similar(name.replace("-", "_"), options)
        if name in ADVICE:
            text += f"; {ADVICE[name]}"
        elif near and (members or name not in options):
            text += f"; did you mean --{near[0]}?"
    if recipe := re.match(r"unrecognized arguments: (\S+\.ya?ml)\b", text):
        text += f"; pass recipes with --config {recipe[1]}"
    if text.startswith("Unexpected config:"):
        text = f"--config: the file contains no options; {ADVICE['config']}"
    if saved:
        return UsageError(f"{saved}: {text}; correct it in this file to resume the run")
    return UsageError(f"{text}\n--help lists all options, --print_config shows their values")


def _similar(name: str, options: Collection[str]) -> list[str]:
    """Return the options that an unknown one may stand for, the likeliest first."""
    last = name.rpartition(".")[2]
    known = [option for option in OTHER_NAMES if option.partition(".init_args")[0] in options]
    others = [option for option in known if last in OTHER_NAMES[option]]
    same = [option for option in options if option.rpartition(".")[2] == last]
    return others or same or difflib.get_close_matches(name, options, n=1, cutoff=0.75)


def _problem_with_class(message: str) -> str | None:
    """Return the problem with a class, from a message that has a paragraph for each type the option accepts."""
    option = re.match(r'Parser key "([\w.]+)"', message)
    if not option:
        return None
    if foreign := re.search(r"\blightning\.pytorch(\.[\w.]*\w)", message):  # Lightning's other package
        return f"{option[1]}: use pytorch_lightning{foreign[1]} in place of {foreign[0]}"
    other = r"class_path '(?:\w+\.)*(?P<name>\w+)':\s*(?P<reason>.*?)(?=\n\s*- |\n\s*Given value|$)"
    found = re.search(ARGUMENT, message, re.DOTALL) or re.search(other, message, re.DOTALL)
    lost = re.search(r"Expected a path but (\S+) either not accessible", message)
    if lost and not found:
        return f"{option[1]}: there is no class {lost[1]}; use MODULE.CLASS, and check that Python can import it"
    if not found:
        return None
    reason = re.sub(r"- Expected a path .*?\n\s*- ", "", found["reason"])
    if missing := re.match("the following arguments are required: (.*)", reason):
        reason = "set " + ", ".join(f"--{option[1]}.{argument}" for argument in missing[1].split(", "))
    return f"{option[1]}: {found['name']}: {reason}"


def add_group(parser: LightningArgumentParser, name: str, group: type) -> None:
    """Add the arguments of a class as options `--NAME.ARGUMENT`, as `add_lightning_class_args` does."""
    if issubclass(group, Callback):
        parser.callback_keys.append(name)
    skip: set[str] = set(getattr(group, "python_only", ()))
    parser.add_class_arguments(
        group, name, fail_untyped=False, instantiate=group is not Trainer, sub_configs=True, skip=skip
    )


def add_report(parser: ArgumentParser) -> None:
    """Add the option that says how much of the report is created."""
    parser.add_argument(
        "--report",
        type=Literal["quick", "full"],
        default="full",
        help="`quick` leaves out the evidence for the CAMs (evidence.*), which takes minutes on a CPU.",
    )


def add_links(parser: ArgumentParser) -> None:
    """Set the options of a part of the report that are those of another."""
    for source, target in LINKS:
        parser.link_arguments(source, target)
