"""Compare finished runs: `python -m cifar_lit.compare RUN RUN...`."""

import argparse
from collections.abc import Sequence

from cifar_lit.utils.arguments import arguments
from cifar_lit.utils.errors import short_errors


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for unusable options or runs, with 1 for a failure.
    """
    parser = argparse.ArgumentParser(
        "python -m cifar_lit.compare",
        description="Compare runs on the same test images: print a table, write compare.json and compare.html. For "
        "two runs, also list which errors were fixed, which are new and which remain, with an exact McNemar test.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, lightning_logs/RECIPE/version_N, or of a later report in it, such as RUN/evaluation_1",
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder for the results (default: a new compare_N)")
    with short_errors():
        options = parser.parse_args(arguments(args))
        from cifar_lit.report.comparison import compare

        compare(options.runs, options.out)


if __name__ == "__main__":
    main()
