"""Train, list the misclassified images, and show why: `python -m cifar_lit.fit`."""

import sys
from collections.abc import Sequence

from cifar_lit.utils.errors import short_errors


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for an unusable option or file, with 1 for a failure.
    """
    with short_errors():
        from cifar_lit.cli.options import FitCLI

        FitCLI(sys.argv[1:] if args is None else args).fit()


if __name__ == "__main__":
    main()
