"""Create the report again from a checkpoint, without training: `python -m cifar_lit.evaluate RUN`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_lit.utils.errors import short_errors

if TYPE_CHECKING:
    from cifar_lit.report.results import RunResults


def evaluate(run: str | Path, *options: str) -> "RunResults":
    """Evaluate a run, or a checkpoint, with the configuration of its run; nothing is written.

    Args:
        run: Its folder or a `.ckpt` file.
        options: Of the command line, such as `"--data.root=OTHER"`.

    Raises:
        UsageError: The run or an option cannot be used.
    """
    from cifar_lit.cli.evaluation import Evaluation

    return Evaluation([str(run), *options]).evaluate()


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for an unusable option or file, with 1 for a failure.
    """
    with short_errors():
        from cifar_lit.cli.evaluation import Evaluation

        evaluation = Evaluation(sys.argv[1:] if args is None else args)
        evaluation.report(evaluation.evaluate())


if __name__ == "__main__":
    main()
