"""Compare runs with different numbers of processes: metrics and misclassified images must not depend on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import fork_server
from comparison import SMALL, TIMEOUT_S, differences, fingerprint, run_folder
from harness import Row, Settings

from cifar_lit.report.epochs import read_epochs

TRAINING = [*SMALL, "--model.norm", "layer", "--data.batch_size"]  # BatchNorm depends on the batch of each process
MAX_RELATIVE_DIFFERENCE = 1e-4  # of losses after 21 steps in float32, from rounding


def inject(settings: Settings) -> Iterator[Row]:
    """Compare training runs, then reports."""
    yield _training(settings.scratch)
    if not settings.quick:
        yield _machines(settings.scratch)
        yield _reports(settings.scratch)


def _reports(scratch: Path) -> Row:
    """Report on one checkpoint with 1, 2 and 3 processes; none of them divides the number of images."""
    args = [*SMALL, "--trainer.max_epochs", "1", "--trainer.limit_test_batches", "0.97"]
    hashes = []
    for processes in (1, 2, 3):
        folder = scratch / str(processes)
        if processes > 1:
            shutil.copytree(scratch / "1", folder)
        run = fork_server.run([*args, *(["--ckpt_path", "last"] if processes > 1 else [])], folder, processes)
        assert run.wait(TIMEOUT_S) == 0, run.output
        hashes.append(fingerprint(run_folder(folder)))
    names = ("misclassified.csv", "predictions.csv")
    failures = [
        f"{name} of {n}" for n, other in enumerate(hashes, 1) for name in names if other[name] != hashes[0][name]
    ]
    what = "the report of one checkpoint, 349 test images"
    return Row.of("process_agreement", what, "1, 2 and 3 processes", failures)


def _training(scratch: Path) -> Row:
    """Train with one process of 16 images a step, and with two of 8."""
    one, two = scratch / "one", scratch / "two"
    for run in (fork_server.run([*TRAINING, "16"], one), fork_server.run([*TRAINING, "8"], two, 2)):
        assert run.wait(TIMEOUT_S) == 0, run.output
    difference = max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(_losses(one), _losses(two), strict=True))
    return Row(
        "process_agreement",
        "three epochs, LayerNorm",
        "1 process of 16 images a step, 2 of 8",
        f"largest relative difference of the losses {difference:.1e}, must be below {MAX_RELATIVE_DIFFERENCE:.0e}",
        difference < MAX_RELATIVE_DIFFERENCE,
    )


def _machines(scratch: Path) -> Row:
    """Train on two machines as in the second run of `_training`."""
    run = fork_server.run([*TRAINING, "8"], scratch / "machines", 2, machines=True)
    assert run.wait(TIMEOUT_S) == 0, run.output
    fault = "2 processes on one machine, on two machines without a shared disk"
    failures = differences(scratch / "two", scratch / "machines")
    return Row.of("process_agreement", "three epochs, LayerNorm", fault, failures)


def _losses(folder: Path) -> list[float]:
    epochs = read_epochs(run_folder(folder) / "report" / "history.csv")
    return [loss for epoch in epochs for loss in (epoch.train_loss, epoch.val_loss)]
