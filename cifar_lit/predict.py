"""Classify image files with a trained network: `python -m cifar_lit.predict RUN PATH...`."""

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
        "python -m cifar_lit.predict",
        description="Classify image files with a trained network, any number of them. Writes a row for each image: "
        "file, predicted class, its probability, its margin to the second, and the probability of each class. If the "
        "folders of the images are named like the classes, prints the accuracy.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="folder of a run (lightning_logs/RECIPE/version_N), for its best weights, or a .ckpt file",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="PNG, JPEG or WebP of any size, or a folder, with its subfolders"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="file for the rows, .csv or .jsonl (default: CSV to standard output). If it exists, the images that are "
        "in it already are skipped: repeat an interrupted command to continue. Unreadable images are listed in "
        "FILE_unreadable.txt",
    )
    parser.add_argument("--device", help="such as cuda, cuda:1, mps or cpu (default: a GPU if there is one)")
    parser.add_argument(
        "--num_workers", type=int, metavar="N", help="processes that decode images (default: one for each core)"
    )
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="apply temperature scaling (arXiv 1706.04599), with the temperature that was fitted to the run's "
        "validation images: the predicted classes stay the same, their probabilities are closer to how often they are "
        "correct",
    )
    with short_errors():
        options = parser.parse_intermixed_args(arguments(args))
        from cifar_lit.inference.prediction import predict_all

        predict_all(**vars(options))


if __name__ == "__main__":
    main()
