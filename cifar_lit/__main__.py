"""List the commands, or run one: `python -m cifar_lit COMMAND ARGS`, or `cifar-lit COMMAND ARGS`."""

import difflib
import importlib
import runpy
import sys
from collections.abc import Sequence

import cifar_lit
from cifar_lit.cli import recipes

COMMANDS = ("fit", "evaluate", "explain", "predict", "export", "demo", "compare")


def listing() -> str:
    """Return the help: what each command does, and the recipes."""
    lines = {name: str(importlib.import_module(f"cifar_lit.{name}").__doc__).partition(": `")[0] for name in COMMANDS}
    return "\n".join(
        [
            "usage: cifar-lit COMMAND ARGS   (or: python -m cifar_lit COMMAND ARGS)\n",
            f"{cifar_lit.__doc__}\n",
            *(f"  {name:<10}{line}" for name, line in lines.items()),
            "\n`cifar-lit COMMAND --help` lists the options of a command, `cifar-lit --version` prints the version.",
            f"Recipes (cifar-lit fit --config NAME): {', '.join(recipes.names())}",
        ]
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run a command, or list all of them.

    Args:
        args: Command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for an unknown command; otherwise as the command does.
    """
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(listing())
    elif name == "--version":
        print(f"cifar_lit {cifar_lit.__version__}")
    elif name in COMMANDS:
        _run(name, rest)
    else:
        near = [f"fit {name}"] if name.startswith("-") else difflib.get_close_matches(name, COMMANDS, n=1)
        suggestion = f"; did you mean cifar-lit {near[0]}?" if near else ""
        print(f"error: {name}: no such command; the commands are {', '.join(COMMANDS)}{suggestion}", file=sys.stderr)
        sys.exit(2)


def _run(name: str, args: Sequence[str]) -> None:
    """Run a command exactly as `python -m cifar_lit.NAME`, which Lightning starts again for each further process."""
    before = sys.argv
    sys.argv = [before[0], *args]
    try:
        runpy.run_module(f"cifar_lit.{name}", run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before


if __name__ == "__main__":
    main()
