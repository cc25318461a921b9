"""Weights in torchvision's format: those that it trained on ImageNet, and files of others."""

import http.client
import os
import re
import socket
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torchvision.models import ResNet18_Weights

from cifar_lit.utils.errors import DISK, RunError

IMAGENET = "imagenet"  # value of model.weights
URL: str = ResNet18_Weights.IMAGENET1K_V1.url
TIMEOUT_S = 30  # without data, after which the download fails
TRANSFORMS = ResNet18_Weights.IMAGENET1K_V1.transforms()


def imagenet_file() -> Path:
    """Return the file of torchvision's weights in torch.hub's cache; one process downloads it if it is not there.

    Raises:
        RunError: The download failed, or the file is damaged.
        OSError: The file cannot be written, for example because the disk is full.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / os.path.basename(URL)
    (digits,) = re.findall(r"-([0-9a-f]{8,})\.", file.name)  # the first ones of the file's SHA-256
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.exists():
                _download(file, digits)
    if not sha256(file.read_bytes()).hexdigest().startswith(digits):
        raise RunError(f"--model.weights {IMAGENET}: {file} is damaged; delete it, and it is downloaded again")
    return file


def _download(file: Path, digits: str) -> None:
    rank_zero_info(f"downloading {URL} to {file}")
    timeout_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torch.hub would wait forever
    try:
        torch.hub.download_url_to_file(URL, str(file), digits)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        raise RunError(
            f"--model.weights {IMAGENET}: {URL} could not be downloaded ({getattr(error, 'reason', error)}); use "
            f"--model.weights FILE with a copy of it or other weights, or put the copy at {file}"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout_s)


def as_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    """Return the `state_dict` of a torchvision model as a checkpoint of this project, anything else unchanged.

    The mean and std of the normalization are ImageNet's, on which torchvision trains. The names of the parameters may
    start with `module.`, which DataParallel adds.
    """
    state_dict = {str(name).removeprefix("module."): value for name, value in state.items()}
    if "conv1.weight" not in state_dict or not all(isinstance(value, Tensor) for value in state_dict.values()):
        return state
    stem = "imagenet" if state_dict["conv1.weight"].shape[2:] == (7, 7) else "cifar"
    norm = "batch" if "bn1.running_mean" in state_dict else "layer"
    statistics = {"mean": TRANSFORMS.mean, "std": TRANSFORMS.std}
    normalize = {f"net.normalize.{name}": torch.tensor(value).view(1, -1, 1, 1) for name, value in statistics.items()}
    for norm_name in [name.removesuffix("running_mean") for name in state_dict if name.endswith("running_mean")]:
        state_dict.setdefault(f"{norm_name}num_batches_tracked", torch.tensor(0))  # missing in files of 2018 and before
    backbone = {f"net.backbone.{name}": value for name, value in state_dict.items()}
    return {"state_dict": normalize | backbone, "hyper_parameters": {"stem": stem, "norm": norm}}
