"""Show a trained network on a web page: `python -m cifar_lit.demo RUN`."""

import argparse
from collections.abc import Sequence

from cifar_lit.utils.arguments import arguments
from cifar_lit.utils.errors import UsageError, short_errors


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, by default those of the process.

    Raises:
        SystemExit: With 2 for an unusable option or run, with 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        "python -m cifar_lit.demo",
        description="Classify and explain images on a web page of this machine, with the misclassified test images and "
        "the model card of the run. Nothing is sent to other machines, and nothing that is uploaded is kept. Ctrl-C "
        "ends it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="folder of a run (lightning_logs/RECIPE/version_N), for its best weights, or a .ckpt file, which has "
        "neither examples nor misclassified images",
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="of the page on 127.0.0.1 (default: %(default)s)"
    )
    parser.add_argument(
        "--space",
        metavar="DIR",
        help="do not start it, but write a new folder that can be uploaded as a hosted Space: the same page, with the "
        "weights, ten examples and up to 100 misclassified images; needs a run with its report",
    )
    with short_errors():
        options = parser.parse_args(arguments(args))
        try:
            from cifar_lit.web import local, space
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise UsageError(f"{error}; install it with pip install 'cifar_lit[demo]'") from None
        if options.space is not None:
            space.write_space(options.run, options.space)
        else:
            local.serve(options.run, options.port)


if __name__ == "__main__":
    main()
