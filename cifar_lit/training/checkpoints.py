"""Finding and checking checkpoints, before anything is trained or written."""

import zipfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_lit.data.dataset import Split
from cifar_lit.training.run_folder import versions
from cifar_lit.utils.errors import UsageError


def find(ckpt_path: str, runs: Path) -> Path:
    """Turn `--ckpt_path` into a file.

    Args:
        ckpt_path: A file; or `last` or `best`, of the newest run that has one.
        runs: The folder with the recipe's runs, `lightning_logs/RECIPE`.
    """
    if ckpt_path in ("last", "best"):
        files = [run / "checkpoints" / f"{ckpt_path}.ckpt" for run in reversed(versions(runs))]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise UsageError(
                f"--ckpt_path {ckpt_path}: no run under {runs} has a {ckpt_path}.ckpt yet; start without --ckpt_path, "
                "or give the path of a checkpoint"
            )
        return found
    return _file(ckpt_path, "a .ckpt file, or last, or best")


def _file(ckpt_path: str, remedy: str) -> Path:
    path = Path(ckpt_path)
    if not path.is_file():
        near = sorted(str(file) for file in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"; there are: {', '.join(near)}" if near else f"; give {remedy}"
        raise UsageError(f"--ckpt_path {ckpt_path}: there is no such file{hint}")
    return path


def of_run(path: str) -> Path:
    """Turn a run's folder into its checkpoint, the best or else the last; a file stays itself."""
    run = Path(path)
    if run.is_dir():
        files = [run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise UsageError(
                f"--ckpt_path {path}: this folder holds no checkpoints/best.ckpt nor last.ckpt; give the folder of a "
                "run (lightning_logs/RECIPE/version_N) or a .ckpt file"
            )
        return found
    return _file(path, "the folder of a run, lightning_logs/RECIPE/version_N, or a .ckpt file")


def config_of(checkpoint: Path) -> Path | None:
    """Return the `config.yaml` of the run that a checkpoint lies in, None if it lies alone."""
    config = checkpoint.parent.parent / "config.yaml"
    return config if checkpoint.parent.name == "checkpoints" and config.is_file() else None


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint without running any code from it; refuse a damaged one, and name a good one beside it."""
    try:
        return _read(path)
    except _UnreadableError as error:
        others = sorted(path.parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
        good = next((other for other in others if other != path and _is_good(other)), None)
        advice = f"the next good one is --ckpt_path {good}" if good else "give another one"
        raise UsageError(f"--ckpt_path {path}: {error}; {advice}") from None


class _UnreadableError(Exception):
    """A file is no checkpoint, or none any more; the text says why."""


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as parts:  # torch does not look at the checksums that it writes
            if spoilt := parts.testzip():
                raise _UnreadableError(f"the file is damaged (the checksum of {spoilt} differs)")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except _UnreadableError:
        raise
    except OSError as error:
        raise _UnreadableError(f"it cannot be read ({error.strerror or error})") from None
    except Exception as error:  # bytes that are no checkpoint make the unpickler raise any kind
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _UnreadableError(
            f"the file is damaged (cut off?), holds more than plain data, or is no checkpoint ({reason})"
        ) from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise _UnreadableError("not a Lightning checkpoint, it has no state_dict")
    return checkpoint


def _is_good(path: Path) -> bool:
    with suppress(_UnreadableError):
        _read(path)
        return True
    return False


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """Return how many epochs a training had finished when it wrote a checkpoint."""
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError):  # written by something else
        return 0


def stopped_early(checkpoint: dict[str, Any]) -> bool:
    """Tell whether Lightning's EarlyStopping had ended a training when it wrote a checkpoint."""
    return any(
        state["stopped_epoch"] > 0 or state["wait_count"] >= state["patience"]
        for state in checkpoint.get("callbacks", {}).values()
        if isinstance(state, dict) and {"stopped_epoch", "wait_count", "patience"} <= state.keys()
    )


def check_classes(checkpoint: dict[str, Any], path: Path, classes: Sequence[str]) -> None:
    """Refuse weights that were trained to tell other classes."""
    theirs = checkpoint.get("ImageDataModule", {}).get("classes", list(classes))
    if theirs != list(classes):
        there, here = next(pair for pair in zip_longest(theirs, classes) if pair[0] != pair[1])
        raise UsageError(
            f"--ckpt_path {path}: it was trained on other classes than these data have ({there!r} there is {here!r} "
            f"here, of {len(theirs)} there and {len(classes)} here); give data (data.source, data.root) with the "
            f"classes {', '.join(theirs[:10])}{', ...' * (len(theirs) > 10)}"
        )


def check_same_images(checkpoint: dict[str, Any], path: Path, train: Split) -> None:
    """Refuse to go on with a run on other training images."""
    if checkpoint.get("ImageDataModule", {}).get("train", train.fingerprint) != train.fingerprint:
        raise UsageError(
            f"--ckpt_path {path.parent.parent}: it was trained on other images than these; go on with the same data "
            f"options as before, which are in its config.yaml, or begin a new run with --ckpt_path {path}"
        )


def check_fits(checkpoint: dict[str, Any], path: Path, module: nn.Module) -> None:
    """Refuse weights of another architecture or number of classes, naming the options that differ."""
    theirs, ours = checkpoint["state_dict"], module.state_dict()
    wrong = [k for k in sorted(theirs.keys() | ours.keys()) if k not in theirs or k not in ours]
    wrong += [k for k in ours if k in theirs and theirs[k].shape != ours[k].shape]
    if not wrong:
        return
    before = checkpoint.get("hyper_parameters", {})
    now: dict[str, Any] = dict(getattr(module, "hparams", {}))
    options = {"num_classes": "number of classes", "stem": "model.stem", "norm": "model.norm"}
    differ = [
        f"{text} {before[k]} (now {now[k]})" for k, text in options.items() if k in before and before[k] != now[k]
    ]
    raise UsageError(
        f"--ckpt_path {path}: its weights do not fit this network: it has "
        + (", ".join(differ) or f"another architecture ({wrong[0]} differs, and {len(wrong) - 1} more)")
        + "; train with the options it was trained with, or give another checkpoint"
    )


def net_state(state: dict[str, Any]) -> dict[str, Any]:
    """Pick the network's weights out of a checkpoint's."""
    return {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
