"""Initial weights of a training: those of a run, of a file, or torchvision's, trained on ImageNet."""

import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_info
from torchvision.models import ResNet18_Weights

from cifar_lit.data.download import download
from cifar_lit.models.weights import find, read
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.files import file_lock

IMAGENET = "imagenet"  # value of model.weights
URL: str = ResNet18_Weights.IMAGENET1K_V1.url
HEAD = ("net.backbone.fc.weight", "net.backbone.fc.bias")
OPTIONS = {"num_classes": "number of classes", "stem": "model.stem", "norm": "model.norm"}


def initialize(
    module: LightningModule, path: str, classes: Sequence[str] | None = None, option: str = "--model.weights"
) -> None:
    """Load the weights of a run's folder, a checkpoint or torchvision, except a last layer for other classes.

    Args:
        module: An ImageClassifier.
        path: A folder, a file, or `imagenet`.
        classes: The names of its classes; None to compare only their number.
        option: The option that names the path, for messages.

    Raises:
        UsageError: There is no such checkpoint, or it is of another architecture; the message names what differs.
        RunError: ImageNet's weights could not be downloaded, or their file is damaged.
    """
    file = imagenet_file() if path == IMAGENET else find(path, option)
    checkpoint = read(file, option)
    theirs, ours = checkpoint["state_dict"], module.state_dict()
    before, now = checkpoint.get("hyper_parameters", {}), dict(module.hparams)
    if all(name in theirs and theirs[name].shape[1:] == ours[name].shape[1:] for name in HEAD):
        their_count, count = (len(state[HEAD[0]]) for state in (theirs, ours))
        names = checkpoint.get("ImageDataModule", {}).get("classes")
        if their_count != count or (names and classes and names != list(classes)):
            new = f"{their_count} classes instead of {count}" if their_count != count else "other classes"
            rank_zero_info(f"{option} {file}: trained on {new}; the last layer is newly initialized")
            theirs = theirs | {name: ours[name] for name in HEAD}
    different = sorted(theirs.keys() ^ ours.keys())
    different += [name for name in ours if name in theirs and theirs[name].shape != ours[name].shape]
    if different:
        reasons = [
            f"{text} {before[k]} (now {now[k]})" for k, text in OPTIONS.items() if k in before and before[k] != now[k]
        ]
        raise UsageError(
            f"{option} {file}: its weights do not fit this network: it has "
            + (", ".join(reasons) or f"another architecture ({different[0]} differs, and {len(different) - 1} more)")
            + "; use the options that it was trained with, or other weights of a ResNet-18"
        )
    module.load_state_dict(theirs)


def imagenet_file() -> Path:
    """Return the file of torchvision's weights in torch.hub's cache; one process downloads it if it is not there.

    Raises:
        RunError: The download failed, or the file is damaged.
        OSError: The file cannot be written, for example because the disk is full.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / os.path.basename(URL)
    (digits,) = re.findall(r"-([0-9a-f]{8,})\.", file.name)  # the first ones of the file's SHA-256

    def is_valid(path: str | Path) -> bool:
        return os.path.exists(path) and sha256(Path(path).read_bytes()).hexdigest().startswith(digits)

    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(f"{file}.lock"):
            if not file.exists():
                rank_zero_info(f"downloading {URL} to {file}")
                advice = f"Use --model.weights FILE with a copy of it or other weights, or put the copy at {file}"
                download([URL], str(file), is_valid, advice)
    if not is_valid(file):
        raise RunError(f"--model.weights {IMAGENET}: {file} is damaged; delete it, and it is downloaded again")
    return file
