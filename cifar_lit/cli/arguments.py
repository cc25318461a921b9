"""What can be read off command-line arguments before they are parsed."""

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path


def option_values(args: Sequence[str], *flags: str) -> list[str]:
    """Return what is given for an option, by any of its names."""
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


def recipes(args: Sequence[str]) -> list[str]:
    """Return the files that are given with `--config`."""
    return option_values(args, "-c", "--config")


def recipes_first(args: Sequence[str], default: str) -> list[str]:
    """Return the arguments, the recipes (or `default`) before the options, which they would undo."""
    named = [part for file in recipes(args) or [default] for part in ("--config", file)]
    return [*named, *without(args, "-c", "--config")]


def recipe_name(args: Sequence[str]) -> str:
    """Return the name of the last of one or more recipes, for the run's folder; a run's own belongs to its recipe."""
    path = Path(os.path.abspath(recipes(args)[-1]))
    name = path.parent.parent.name if re.fullmatch(r"version_\d+", path.parent.name) else path.stem
    return re.sub(r"[^\w.-]", "_", name)[:100].lstrip(".") or "run"  # `..` would be the folder above
