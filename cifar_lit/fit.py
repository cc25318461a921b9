"""Train, list the misclassified images, and show why: `python -m cifar_lit.fit`."""

from collections.abc import Sequence

from cifar_lit.utils.arguments import arguments
from cifar_lit.utils.errors import short_errors


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for an unusable option or file, with 1 for a failure.
    """
    with short_errors():
        from cifar_lit.cli.options import FitCLI

        FitCLI(arguments(args)).fit()


if __name__ == "__main__":
    main()
