"""Ask a trained network about anyone's own images: `python -m cifar_lit.explain`."""

import argparse
import sys
from collections.abc import Sequence

from cifar_lit.utils.errors import UsageError, short_errors

LAYERS = ("layer1", "layer2", "layer3", "layer4")  # those of net.py, which takes seconds to import


def parse(args: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        "python -m cifar_lit.explain",
        description="Show what a trained network takes images for, and which places of them speak for it. Leaves an "
        "overlay PNG for each image, a contact sheet and explain.json.",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", metavar="PICTURE_OR_FOLDER", help="PNG, JPEG or WebP of any size")
    parser.add_argument(
        "--ckpt_path",
        required=True,
        metavar="RUN_OR_FILE",
        help="folder of a run (lightning_logs/RECIPE/version_N), whose best weights are taken, or a .ckpt file",
    )
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="class to explain (default: the predicted)")
    parser.add_argument(
        "--layers", nargs="+", choices=LAYERS, help="layers to look at (default: the deepest with a map above 5 px)"
    )
    parser.add_argument("--method", default="GradCAM", help="method of the grad-cam package (default: %(default)s)")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes in the table (default: %(default)s)")
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder for the results (default: a new explain_N in the current one)"
    )
    # A list option would swallow the images that follow it, so they may stand on both sides of the options.
    found = parser.parse_intermixed_args(args)
    if found.top < 1:
        raise UsageError(f"--top must be 1 or more, got {found.top}")
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, those of the process by default.

    Raises:
        SystemExit: With 2 for an unusable option or file, with 1 if a image could not be read.
    """
    with short_errors():
        options = parse(sys.argv[1:] if args is None else args)
        from cifar_lit.report.explanation import run

        run(options)


if __name__ == "__main__":
    main()
