"""Find, read, verify and write checkpoint files."""

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import nn

from cifar_lit.data.dataset import Split
from cifar_lit.models.resnet import ResNet18
from cifar_lit.training.run_folder import versions
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically.

    Lightning's own writes to the temporary folder and moves the file, which between file systems is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; if that fails, the previous file is kept."""
        content = io.BytesIO()  # on a full disk, torch would raise an internal error instead of an OSError
        torch.save(checkpoint, content)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_write(path, "wb") as file:
            file.write(content.getbuffer())


def find(ckpt_path: str, runs: Path) -> Path:
    """Return the file that `--ckpt_path` names.

    Args:
        ckpt_path: A file; or `last` or `best`, of the newest run that has such a checkpoint.
        runs: The folder of the recipe's runs, `lightning_logs/RECIPE`.
    """
    if ckpt_path in ("last", "best"):
        for run in reversed(versions(runs)):
            if (file := run / "checkpoints" / f"{ckpt_path}.ckpt").is_file():
                return file
        raise UsageError(
            f"--ckpt_path {ckpt_path}: no run in {runs} has a {ckpt_path}.ckpt yet; start without --ckpt_path, or use "
            "the path of a checkpoint"
        )
    return _existing(ckpt_path, "a .ckpt file, or last, or best")


def of_run(path: str) -> Path:
    """Return the best checkpoint of a run's folder, or else its last; return a file unchanged."""
    if Path(path).is_dir():
        for name in ("best", "last"):
            if (file := Path(path, "checkpoints", f"{name}.ckpt")).is_file():
                return file
        raise UsageError(
            f"--ckpt_path {path}: this folder contains no checkpoints/best.ckpt or last.ckpt; use the folder of a run "
            "(lightning_logs/RECIPE/version_N) or a .ckpt file"
        )
    return _existing(path, "the folder of a run, lightning_logs/RECIPE/version_N, or a .ckpt file")


def _existing(ckpt_path: str, remedy: str) -> Path:
    path = Path(ckpt_path)
    if not path.is_file():
        others = ", ".join(sorted(str(file) for file in path.parent.glob("*.ckpt")))
        hint = f"this folder contains {others}" if others else f"use {remedy}"
        raise UsageError(f"--ckpt_path {ckpt_path}: there is no such file; {hint}")
    return path


def config_of(checkpoint: Path) -> Path | None:
    """Return the `config.yaml` of the run that a checkpoint belongs to; None if it is in no run's folder."""
    config = checkpoint.parent.parent / "config.yaml"
    return config if checkpoint.parent.name == "checkpoints" and config.is_file() else None


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint without running code from it.

    Raises:
        UsageError: The file is damaged or not a checkpoint; the message names a valid one in the same folder.
    """
    loaded = _load(path)
    if isinstance(loaded, dict):
        return loaded
    others = sorted(path.parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
    valid = next((other for other in others if other != path and isinstance(_load(other), dict)), None)
    remedy = f"the newest valid one is --ckpt_path {valid}" if valid else "use another one"
    raise UsageError(f"--ckpt_path {path}: {loaded}; {remedy}")


def _load(path: Path) -> dict[str, Any] | str:
    """Return the checkpoint, or why the file is not valid."""
    try:
        with zipfile.ZipFile(path) as parts:  # torch writes checksums but does not verify them
            if damaged := parts.testzip():
                return f"the file is damaged (wrong checksum of {damaged})"
            if any(part.external_attr & 0x10 for part in parts.infolist()):  # torch would read a folder as nothing
                return "the file is damaged (its directory is corrupt)"
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except Exception as error:  # the unpickler raises many kinds
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        return f"the file is damaged (truncated?), contains more than plain data, or is not a checkpoint ({reason})"
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        return "not a Lightning checkpoint, it has no state_dict"
    return checkpoint


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """Return how many epochs were finished when a checkpoint was written."""
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError):  # written by another program
        return 0


def stopped_early(checkpoint: dict[str, Any]) -> bool:
    """Return whether Lightning's EarlyStopping had ended the training when a checkpoint was written."""
    return any(
        state["stopped_epoch"] > 0 or state["wait_count"] >= state["patience"]
        for state in checkpoint.get("callbacks", {}).values()
        if isinstance(state, dict) and {"stopped_epoch", "wait_count", "patience"} <= state.keys()
    )


def check_classes(checkpoint: dict[str, Any], path: Path, classes: Sequence[str]) -> None:
    """Refuse a checkpoint of other classes."""
    theirs = checkpoint.get("ImageDataModule", {}).get("classes", list(classes))
    if theirs != list(classes):
        there, here = next(pair for pair in zip_longest(theirs, classes) if pair[0] != pair[1])
        raise UsageError(
            f"--ckpt_path {path}: it was trained on other classes than those of this data set ({there!r} instead of "
            f"{here!r}; {len(theirs)} classes instead of {len(classes)}); use data (data.source, data.root) with the "
            f"classes {', '.join(theirs[:10])}{', ...' * (len(theirs) > 10)}"
        )


def check_same_images(checkpoint: dict[str, Any], path: Path, train: Split) -> None:
    """Refuse to resume a run with other training images."""
    if checkpoint.get("ImageDataModule", {}).get("train", train.fingerprint) != train.fingerprint:
        raise UsageError(
            f"--ckpt_path {path.parent.parent}: it was trained on other images; resume with the data options in its "
            f"config.yaml, or start a new run with --ckpt_path {path}"
        )


def check_fits(checkpoint: dict[str, Any], path: Path, module: nn.Module) -> None:
    """Refuse weights of another architecture or number of classes, naming the options that differ."""
    theirs, ours = checkpoint["state_dict"], module.state_dict()
    different = sorted(theirs.keys() ^ ours.keys())
    different += [name for name in ours if name in theirs and theirs[name].shape != ours[name].shape]
    if not different:
        return
    before = checkpoint.get("hyper_parameters", {})
    now: dict[str, Any] = dict(getattr(module, "hparams", {}))
    options = {"num_classes": "number of classes", "stem": "model.stem", "norm": "model.norm"}
    reasons = [
        f"{text} {before[k]} (now {now[k]})" for k, text in options.items() if k in before and before[k] != now[k]
    ]
    raise UsageError(
        f"--ckpt_path {path}: its weights do not fit this network: it has "
        + (", ".join(reasons) or f"another architecture ({different[0]} differs, and {len(different) - 1} more)")
        + "; use the options that it was trained with, or another checkpoint"
    )


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
    """

    net: ResNet18
    classes: tuple[str, ...]
    image_size: int


def load_network(path: str) -> TrainedNetwork:
    """Load the network of a run's folder (its best weights, else the last ones) or of a checkpoint.

    Raises:
        UsageError: There is no such checkpoint, or it is not one of this project.
    """
    file = of_run(path)
    checkpoint = read(file)
    try:
        built, data = checkpoint["hyper_parameters"], checkpoint["ImageDataModule"]
        net = ResNet18(built["num_classes"], built["mean"], built["std"], built["stem"], built["norm"])
        net.load_state_dict(net_state(checkpoint["state_dict"]))
        return TrainedNetwork(net.eval().requires_grad_(False), tuple(data["classes"]), data["image_size"])
    except (KeyError, RuntimeError) as error:
        raise UsageError(
            f"--ckpt_path {path}: {file} does not describe its network and data ({error}); use a checkpoint of "
            "python -m cifar_lit.fit"
        ) from None
