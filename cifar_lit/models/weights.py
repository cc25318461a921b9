"""Checkpoint files: find, read and verify them, and load their weights into a network."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.models.resnet import ResNet18
from cifar_lit.utils.errors import UsageError

HEAD = ("net.backbone.fc.weight", "net.backbone.fc.bias")
OPTIONS = {"num_classes": "number of classes", "stem": "model.stem", "norm": "model.norm"}


def find(path: str, option: str = "--ckpt_path") -> Path:
    """Return the best checkpoint of a run's folder, or else its last; return a file unchanged.

    Raises:
        UsageError: There is no such checkpoint; the message names the option.
    """
    given = Path(path)
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
        with zipfile.ZipFile(file) as parts:  # torch writes checksums but does not verify them
            if damaged := parts.testzip():
                return f"the file is damaged (wrong checksum of {damaged})"
            if any(part.external_attr & 0x10 for part in parts.infolist()):  # torch would read a folder as nothing
                return "the file is damaged (its directory is corrupt)"
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except Exception as error:  # the unpickler raises many kinds
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        return f"the file is damaged (truncated?), contains more than plain data, or is not a checkpoint ({reason})"
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        return "not a Lightning checkpoint, it has no state_dict"
    return checkpoint


def load(
    module: LightningModule, checkpoint: dict[str, Any], file: Path, option: str = "--ckpt_path", new_head: bool = False
) -> None:
    """Load the weights of a checkpoint, and nothing else of it.

    Args:
        module: An ImageClassifier.
        checkpoint: From `read`.
        file: Its file, for messages.
        option: The option that names it, for messages.
        new_head: Whether a module with another number of classes keeps its own last layer; otherwise it is refused.

    Raises:
        UsageError: The weights are of another architecture; the message names the options that differ.
    """
    theirs, ours = checkpoint["state_dict"], module.state_dict()
    before, now = checkpoint.get("hyper_parameters", {}), dict(module.hparams)
    if new_head and all(name in theirs and theirs[name].shape[1:] == ours[name].shape[1:] for name in HEAD):
        if theirs[HEAD[0]].shape != ours[HEAD[0]].shape:
            counts = f"{len(theirs[HEAD[0]])} classes, this network {len(ours[HEAD[0]])}"
            rank_zero_info(f"{option} {file}: it has {counts}; the last layer is initialized again")
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
            + "; use the options that it was trained with, or another checkpoint"
        )
    module.load_state_dict(theirs)


def initialize(module: LightningModule, path: str, option: str = "--model.weights") -> None:
    """Load the weights of a run's folder or a checkpoint, except a last layer for another number of classes.

    Raises:
        UsageError: There is no such checkpoint, or it is of another architecture.
    """
    file = find(path, option)
    load(module, read(file, option), file, option, new_head=True)


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
        folder: That of the checkpoint.
    """

    net: ResNet18
    classes: tuple[str, ...]
    image_size: int
    folder: Path

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
        net = ResNet18(built["num_classes"], built["mean"], built["std"], built["stem"], built["norm"])
        net.load_state_dict(net_state(checkpoint["state_dict"]))
        return TrainedNetwork(net.eval().requires_grad_(False), tuple(data["classes"]), data["image_size"], file.parent)
    except (KeyError, RuntimeError) as error:
        raise UsageError(
            f"{option} {file}: it does not describe its network and data ({error}); use a checkpoint of python -m "
            "cifar_lit.fit"
        ) from None
