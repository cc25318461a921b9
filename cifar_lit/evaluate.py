"""Create the report again from a checkpoint, without training: `python -m cifar_lit.evaluate RUN`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_lit.utils.arguments import arguments
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

    return Evaluation(arguments([run, *options])).evaluate()


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for an unusable option or file, with 1 for a failure.
    """
    with short_errors():
        from cifar_lit.cli.evaluation import Evaluation

        evaluation = Evaluation(arguments(args))
        evaluation.report(evaluation.evaluate())


if __name__ == "__main__":
    main()
