"""Classify and explain image files with a trained network: `python -m cifar_lit.explain RUN IMAGE...`."""

import argparse
from collections.abc import Sequence

from cifar_lit.utils.arguments import arguments
from cifar_lit.utils.errors import short_errors


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for an unusable option or file, with 1 if an image could not be read.
    """
    parser = argparse.ArgumentParser(
        "python -m cifar_lit.explain",
        usage="%(prog)s RUN IMAGE_OR_FOLDER... [options]",
        description="Show what a trained network predicts for images, and the evidence for it by Grad-CAM. Writes an "
        "overlay PNG for each image, a contact sheet and explain.json.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="folder of a run (lightning_logs/RECIPE/version_N), for its best weights, or a .ckpt file",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="PNG, JPEG or WebP of any size")
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="class to explain (default: the predicted class)"
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help="layer1 to layer4 (default: the one that localizes best according to the run's report; without its "
        "scores, the deepest with a heatmap above 5 px)",
    )
    parser.add_argument("--method", default="GradCAM", help="method of the grad-cam package (default: %(default)s)")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to list (default: %(default)s)")
    parser.add_argument(
        "--calibrated", action="store_true", help="apply temperature scaling (arXiv 1706.04599), as predict does"
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder for the results (default: a new explain_N)")
    with short_errors():
        options = parser.parse_intermixed_args(arguments(args))  # images may follow options
        from cifar_lit.inference.explanation import explain_all

        explain_all(**vars(options))


if __name__ == "__main__":
    main()
