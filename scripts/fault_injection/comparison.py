"""The small training run that all parts use, and the comparison of two runs."""

import csv
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
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
BLANK = "comparison:leave_figures_blank"  # for `before` of `fork_server.run`
UNTIL_EXIT = ExitStack()


@contextmanager
def figures_left_blank() -> Iterator[None]:
    """Do not render figures, which are not compared and take half the time of a short run."""
    with ExitStack() as patches:
        blank = np.zeros((8, 8, 3), np.uint8)
        patches.enter_context(mock.patch("cifar_lit.report.writer.to_array", lambda figure: blank))
        for name in ("confidence", "quality", "slices", "training"):
            patches.enter_context(mock.patch(f"cifar_lit.report.sections.{name}.svg", lambda draw: ""))
        yield


def leave_figures_blank() -> None:
    """Do not render figures until this process exits."""
    UNTIL_EXIT.enter_context(figures_left_blank())


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
