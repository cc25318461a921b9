"""The small training run that all parts use, and the comparison of two runs."""

import csv
import hashlib
from pathlib import Path
from typing import Any

import torch
from fork_server import Group
from harness import ROOT

TIMEOUT_S = 600  # a run takes about 10 s
TIMING = {"seconds", "images_per_second", "data_time_fraction"}  # columns that differ between any two runs
SMALL = [
    *("--config", str(ROOT / "configs" / "demo.yaml"), "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1"),
    *("--data.image_size", "8", "--data.cutout_size", "3", "--data.crop_padding", "1", "--data.batch_size", "16"),
    *("--trainer.limit_train_batches", "7", "--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"),
    *("--page.num_cams", "0", "--report", "quick", "--projector.num_images", "0", "--misclassified.k", "2"),
]


def run_folder(folder: Path) -> Path:
    """Return the only run in a folder."""
    (run,) = folder.glob("lightning_logs/*/version_*")
    return run


def differences(expected: Path, actual: Path) -> list[str]:
    """Return the names of what differs between the runs in two folders."""
    ours, theirs = fingerprint(run_folder(expected)), fingerprint(run_folder(actual))
    return [name for name in ours if ours[name] != theirs[name]]


def wait_and_compare(run: Group, expected: Path, actual: Path) -> list[str]:
    """Wait for a run and compare it with an undisturbed one.

    Args:
        run: Group of processes that trains in `actual`.
        expected: Folder of the undisturbed run.
        actual: Folder of the disturbed run.

    Returns:
        Names of what differs, or how the run failed.
    """
    if run.wait(TIMEOUT_S) != 0:
        return [f"the last attempt ended with exit code {run.exit_code}"]
    return differences(expected, actual)


def fingerprint(run: Path) -> dict[str, str]:
    """Return a hash of each result that must be identical in equal runs."""
    hashes = {}
    for name in ("last", "best"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            hashes[f"{name}: {part}"] = _hash(checkpoint[part])
    with open(run / "report" / "history.csv", newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]
    hashes["history.csv"] = _hash(rows)
    for name in ("misclassified.csv", "predictions.csv", "predictions_train.csv", "metrics.json"):
        hashes[name] = _hash((run / "report" / name).read_bytes())
    return hashes


def _hash(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(part.contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key in part:
                digest.update(repr(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for item in part:
                add(item)
        else:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())

    add(value)
    return digest.hexdigest()
