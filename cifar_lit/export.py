"""Export a trained network as ONNX, torch.export or safetensors: `python -m cifar_lit.export RUN --format onnx`."""

import argparse
from collections.abc import Sequence

from cifar_lit.utils.arguments import arguments
from cifar_lit.utils.errors import short_errors


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for an unusable option or run, with 1 if the export differs from the network.
    """
    parser = argparse.ArgumentParser(
        "python -m cifar_lit.export",
        description="Write the network of a run as one file that maps uint8 images (N, H, W, 3) to probabilities, with "
        "a model card, README.md. The file is compared with the network on up to 1,000 test images; if a prediction or "
        "a probability differs, it is removed.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run with its report (lightning_logs/RECIPE/version_N)")
    parser.add_argument(
        "--format",
        required=True,
        choices=("onnx", "torch", "safetensors"),
        help="model.onnx, for ONNX Runtime and others; model.pt2, a program of torch.export; model.safetensors, the "
        "weights alone, with model.json beside",
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder for the files (default: RUN/export)")
    parser.add_argument("--logits", action="store_true", help="return logits instead of probabilities")
    parser.add_argument("--license", default="mit", metavar="ID", help="for the model card (default: %(default)s)")
    with short_errors():
        options = parser.parse_args(arguments(args))
        from cifar_lit.inference.export import export_run

        export_run(**vars(options))


if __name__ == "__main__":
    main()
