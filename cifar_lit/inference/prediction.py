"""Classify any number of image files."""

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cifar_lit.data.workers import worker_failure
from cifar_lit.inference.classifier import Classifier
from cifar_lit.inference.images import image_files
from cifar_lit.inference.rows import TEXT, Rows
from cifar_lit.utils.errors import RunError, at_least
from cifar_lit.utils.hardware import available_cores
from cifar_lit.utils.signals import Interrupted
from cifar_lit.utils.text import counted


class _Counts:
    """Numbers of images: classified, in a folder with the name of a class, and in the folder of the predicted one."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = frozenset(classes)
        self.images = self.labeled = self.correct = 0

    def add(self, file: str, predicted: str) -> None:
        folder = unicodedata.normalize("NFC", os.path.basename(os.path.dirname(file)))
        self.images += 1
        self.labeled += folder in self.classes
        self.correct += folder == predicted

    def __str__(self) -> str:
        text = f"{counted(self.images, 'image')} classified"
        if self.labeled:
            text += f"; accuracy {self.correct / self.labeled:.2%} of {self.labeled:,} in folders named like a class"
        return text


def predict_all(
    run: str,
    paths: Sequence[str],
    out: str | None = None,
    device: str | None = None,
    num_workers: int | None = None,
    calibrated: bool = False,
) -> None:
    """Write a row for each image file, and unreadable files to `OUT_unreadable.txt`; print the accuracy.

    The accuracy is that of the images in folders with the name of a class. All messages go to standard error. Memory
    does not grow with the number of files, but for a few bytes for each row that the file has already.

    Args:
        run: A run's folder or a checkpoint.
        paths: Files, and folders of images.
        out: File of the rows, `.csv` or `.jsonl`. Files of which it has a row already are skipped. By default the rows
            are written to standard output as CSV.
        device: Device of the network; by default a GPU if there is one.
        num_workers: Processes that decode images; by default one per core.
        calibrated: Whether to scale the probabilities by the stored temperature, which is then written beside the
            fingerprint of the weights: a file has rows of one kind only.

    Raises:
        UsageError: An option cannot be used.
        RunError: Some images could not be read; the others are classified.
    """
    num_workers = available_cores() if num_workers is None else at_least("--num_workers", num_workers, 0)
    classifier = Classifier.load(run, device, device_option="--device ")
    weights = classifier.fingerprint
    if calibrated:
        weights += f" T={classifier.require_temperature('--calibrated'):.6g}"
    rows = Rows(out, classifier.classes, weights)
    with rows.lock():
        _predict(classifier, rows, paths, num_workers, calibrated)


def _predict(classifier: Classifier, rows: Rows, paths: Sequence[str], num_workers: int, calibrated: bool) -> None:
    out, counts = rows.out, _Counts(classifier.classes)

    def count(row: tuple[str, str]) -> int:
        counts.add(*row)
        return hash(row[0])

    done = np.fromiter(map(count, rows.resume()), np.int64)
    done.sort()

    def remaining(print_others: bool) -> Iterator[str]:
        for file in image_files(paths, print_others):
            position = np.searchsorted(done, hash(file))
            if position == len(done) or done[position] != hash(file):
                yield file

    total = sum(1 for _ in remaining(print_others=True))
    if len(done):
        print(f"{out} has {counted(len(done), 'row')} already; remaining: {counted(total, 'image')}", file=sys.stderr)
    listed = Path(out).with_name(f"{Path(out).stem}_unreadable.txt") if out else Path(os.devnull)
    failures = 0
    bar = tqdm(
        total=total,
        unit=" images",
        delay=2,
        leave=False,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,  # seconds; few lines in a log file
        disable=out is None and sys.stdout.isatty(),  # the rows are on the screen
    )
    try:
        with bar, rows.append() as table, open(listed, "w", **TEXT) as unreadable:
            for predictions, messages in classifier.stream(remaining(print_others=False), num_workers, calibrated):
                rows.write(table, predictions)
                for file, predicted in zip(predictions.files, predictions.labels, strict=True):
                    counts.add(str(file), predicted)
                unreadable.writelines(f"{message}\n" for message in messages)
                if out is None:
                    for message in messages:
                        tqdm.write(message, file=sys.stderr)
                failures += len(messages)
                bar.update(len(predictions) + len(messages))
    except BrokenPipeError:
        raise RunError("standard output was closed before all rows were written") from None
    except RuntimeError as error:
        if not worker_failure(error):
            raise
        raise RunError(
            "a process that decodes images has died or does not answer, perhaps for lack of memory or of shared memory "
            "(/dev/shm); reduce --num_workers, 0 uses none"
        ) from error
    except Interrupted as stop:
        stop.advice = f"repeat the command with --out {out} to continue" if out else ""
        raise
    finally:
        if out and not failures:
            listed.unlink(missing_ok=True)
    print(counts, file=sys.stderr)
    if failures:
        raise RunError(counted(failures, "unreadable image") + (f", listed in {listed}" if out else ""))
