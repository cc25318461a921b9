"""Checkpoint files: find, read and verify them, and load their weights into a network."""

import hashlib
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import ResNet18_Weights

from cifar_lit.models.resnet import ResNet18
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import placeholder

TRANSFORMS = ResNet18_Weights.IMAGENET1K_V1.transforms()
NETWORK = ("num_classes", "mean", "std", "stem", "norm")  # arguments of ResNet18 that its weights depend on


def find(path: str, option: str = "--ckpt_path") -> Path:
    """Return the best checkpoint of a run's folder, or else its last; return a file unchanged.

    Raises:
        UsageError: There is no such checkpoint; the message names the option.
    """
    given = Path(os.path.expanduser(path))
    if given.is_dir():
        for name in ("best", "last"):
            if (file := given / "checkpoints" / f"{name}.ckpt").is_file():
                return file
        raise UsageError(
            f"{option} {path}: this folder contains no checkpoints/best.ckpt or last.ckpt; use the folder of a run "
            "(lightning_logs/RECIPE/version_N) or a .ckpt file"
        )
    if not given.is_file():
        others = ", ".join(sorted(str(file) for file in given.parent.glob("*.ckpt")))
        hint = f"this folder contains {others}" if others else "use the folder of a run or a .ckpt file"
        raise UsageError(f"{option} {path}: there is no such file; {hint}")
    return given


def read(file: Path, option: str = "--ckpt_path") -> dict[str, Any]:
    """Load a checkpoint without running code from it.

    Raises:
        UsageError: The file is damaged or not a checkpoint; the message names a valid one in the same folder.
    """
    loaded = _load(file)
    if isinstance(loaded, dict):
        return loaded
    others = sorted(file.parent.glob("*.ckpt"), key=lambda other: other.stat().st_mtime, reverse=True)
    valid = next((other for other in others if other != file and isinstance(_load(other), dict)), None)
    remedy = f"the newest valid checkpoint there is {valid}" if valid else "use another one"
    raise UsageError(f"{option} {file}: {loaded}; {remedy}")


def _load(file: Path) -> dict[str, Any] | str:
    """Return the checkpoint, or why the file is not valid."""
    try:
        if zipfile.is_zipfile(file):  # not torch's older format, which torchvision also uses
            with zipfile.ZipFile(file) as parts:  # torch writes checksums but does not verify them
                if damaged := parts.testzip():
                    return f"the file is damaged (the checksum of {damaged} differs)"
                if any(part.external_attr & 0x10 for part in parts.infolist()):  # torch would read a folder as nothing
                    return "the file is damaged (its directory is corrupt)"
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except Exception as error:  # the unpickler raises many kinds
        if contained := re.search(r"GLOBAL (\S+)", str(error)):
            return f"it contains {contained[1]}, and only plain data are loaded, since objects could run code"
        with open(file, "rb") as content:
            truncated = content.read(4) == b"PK\3\4"  # an archive, whose directory at the end is missing
        damage = "the file is damaged (truncated)" if truncated else "the file is not a checkpoint, or damaged"
        return placeholder(file) or damage
    if isinstance(checkpoint, dict):
        checkpoint = as_checkpoint(checkpoint)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        return "not a Lightning checkpoint, it has no state_dict"
    if not all_finite(checkpoint["state_dict"]):
        return "its weights are not finite, as after diverged training"
    return checkpoint


def all_finite(state: dict[str, Any]) -> bool:
    """Return whether all floating-point tensors of a `state_dict` are finite."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return not tensors or bool(torch.stack([value.isfinite().all() for value in tensors]).all())


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


def net_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the network's part of the `state_dict` of a checkpoint."""
    return {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}


@dataclass(frozen=True)
class TrainedNetwork:
    """A network, its classes and its image size.

    Attributes:
        net: In evaluation mode, in float32, without gradients, on the CPU.
        classes: The class names.
        image_size: Height and width in pixels of the images that it was trained on.
        folder: That of the checkpoint; None if it is not from a file.
    """

    net: ResNet18
    classes: tuple[str, ...]
    image_size: int
    folder: Path | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of weights, class names and image size; see `fingerprint`."""
        return fingerprint(self.net, self.classes, self.image_size)


def fingerprint(net: ResNet18, classes: Sequence[str], image_size: int) -> str:
    """Return the BLAKE2b hash of weights, class names and image size, 16 hexadecimal digits."""
    digest = hashlib.blake2b(f"{tuple(classes)} {image_size}".encode(), digest_size=8)
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def load_network(path: str, option: str = "--ckpt_path") -> TrainedNetwork:
    """Load the network of a run's folder (its best weights, else the last ones) or of a checkpoint.

    Raises:
        UsageError: There is no such checkpoint, or it is not one of this project; the message names the option.
    """
    file = find(path, option)
    return build_network(read(file, option), file, option)


def build_network(checkpoint: dict[str, Any], file: Path, option: str = "--ckpt_path") -> TrainedNetwork:
    """Build the network of a checkpoint; arguments as for `load`.

    Raises:
        UsageError: It is not a checkpoint of this project.
    """
    try:
        built, data = checkpoint["hyper_parameters"], checkpoint["ImageDataModule"]
        net = ResNet18(**{name: built[name] for name in NETWORK})
        net.load_state_dict(net_state(checkpoint["state_dict"]))
        return TrainedNetwork(net.eval().requires_grad_(False), tuple(data["classes"]), data["image_size"], file.parent)
    except (KeyError, RuntimeError) as error:
        raise UsageError(
            f"{option} {file}: it does not describe its network and data ({error}); use a checkpoint of python -m "
            "cifar_lit.fit"
        ) from None


def network_part(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what `build_network` needs of a checkpoint: neither the optimizer's state nor other options."""
    built, data = checkpoint["hyper_parameters"], checkpoint["ImageDataModule"]
    return {
        "state_dict": {key: value for key, value in checkpoint["state_dict"].items() if key.startswith("net.")},
        "hyper_parameters": {name: built[name] for name in NETWORK},
        "ImageDataModule": {name: data[name] for name in ("classes", "image_size")},
    }
