"""Train a ResNet-18 on CIFAR-10, list the images that it misclassifies, and show why."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cifar_lit.inference.classifier import Classifier

__version__ = "0.1.0"


def load(run_or_file: "str | Path", device: str | None = None) -> "Classifier":
    """Load a trained network, with `predict` and `explain`; no code from the file runs.

    Args:
        run_or_file: Folder of a run (`lightning_logs/RECIPE/version_N`), for its best weights, or a `.ckpt` file.
        device: Such as `cuda`, `cuda:1`, `mps` or `cpu`; by default a GPU if there is one.

    Raises:
        ValueError: There is no such checkpoint, it is not one of this project, or the device does not exist.
    """
    from cifar_lit.inference.classifier import Classifier  # imports torch, which takes seconds

    return Classifier.load(run_or_file, device, option="load:")
