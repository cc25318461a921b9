"""Files with a row for each classified image, to which an interrupted program appends when it runs again."""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import Timeout

from cifar_lit.inference.results import Predictions
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import file_lock, plain_cell, safe_cell

TAIL_BYTES = 2**20  # more than a row has
TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}  # for any file name


class Rows:
    """Rows of a CSV or JSON lines file: file, predicted class, probability, margin, and probability of each class.

    The margin is the highest probability minus the second. A row also has the fingerprint of the weights: in JSON lines
    first, so that the beginning of a file already shows whose it is.

    Args:
        out: The file, which ends in `.csv` or `.jsonl`; None to write CSV to standard output.
        classes: The class names.
        weights: The fingerprint, and the temperature if there is one.

    Raises:
        UsageError: The file has another ending.
    """

    def __init__(self, out: str | None, classes: tuple[str, ...], weights: str) -> None:
        ending = ".csv" if out is None else Path(out).suffix.lower()
        if ending not in (".csv", ".jsonl"):
            raise UsageError(f"--out {out}: the name must end in .csv or .jsonl")
        if out is not None and (Path(out).is_dir() or any(parent.is_file() for parent in Path(out).parents)):
            raise UsageError(f"--out {out}: part of this path is a file, or it is a folder; use another file")
        self.out = out
        self.weights = weights
        self.is_csv = ending == ".csv"
        columns = ["file", "predicted", "probability", "margin", *(f"p({name})" for name in classes)]
        self.columns = [*columns, "weights"] if self.is_csv else ["weights", *columns]
        text = io.StringIO()
        csv.writer(text).writerow(self.columns)
        self.start = text.getvalue() if self.is_csv else f'{{"weights": "{weights}", "file": "'

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the file for the block, in which it is read and written.

        Raises:
            UsageError: Another process has locked it.
        """
        if self.out is None:
            yield
            return
        Path(self.out).parent.mkdir(parents=True, exist_ok=True)
        lock = Path(f"{self.out}.lock")
        try:
            with file_lock(lock, timeout_s=0):
                try:
                    yield
                finally:
                    with suppress(OSError):  # where files in use cannot be deleted
                        lock.unlink()
        except Timeout:
            raise UsageError(
                f"--out {self.out}: another process is writing this file; wait until it ends, or use another file"
            ) from None

    def resume(self) -> Iterator[tuple[str, str]]:
        """Yield file and predicted class of the rows in the file, if it exists; remove an incomplete row at its end.

        Raises:
            UsageError: The file contains anything else, or rows of other weights; it is not changed.
        """
        if self.out is None or not os.path.exists(self.out):
            return
        message = (
            f"--out {self.out} exists, but not with predictions of this network, or not calibrated alike; use another "
            "file"
        )
        try:
            with open(self.out, "r+b") as content, open(self.out, **TEXT) as file:
                start = self.start.encode()
                found = content.read(len(start))
                if found != start[: len(found)]:
                    raise ValueError
                first = next(csv.DictReader(file), {}) if self.is_csv else {}  # JSON lines start with the weights
                if not self.weights.startswith(first.get("weights") or ""):
                    raise ValueError
                size = content.seek(0, os.SEEK_END)
                content.seek(max(0, size - TAIL_BYTES))
                incomplete = content.read().rpartition(b"\r\n" if self.is_csv else b"\n")[2]
                content.truncate(size - len(incomplete))
            with open(self.out, **TEXT) as file:
                for row in csv.DictReader(file) if self.is_csv else map(json.loads, file):
                    if list(row) != self.columns or row["weights"] != self.weights:
                        raise ValueError
                    cells = row["file"], row["predicted"]
                    yield (plain_cell(cells[0]), plain_cell(cells[1])) if self.is_csv else cells
        except (ValueError, TypeError, csv.Error):
            raise UsageError(message) from None

    @contextmanager
    def append(self) -> Iterator[IO[str]]:
        """Open the file, for `write`."""
        # Not print(), which ignores errors.
        with open(1, "w", closefd=False, **TEXT) if self.out is None else open(self.out, "a", **TEXT) as file:
            if self.is_csv and (self.out is None or file.tell() == 0):
                file.write(self.start)
            yield file

    def write(self, file: IO[str], predictions: Predictions) -> None:
        """Append a row for each image."""
        writer = csv.writer(file)
        for name, label, *pair, probabilities in zip(
            predictions.files,
            predictions.labels,
            predictions.confidences.tolist(),
            predictions.margins.tolist(),
            predictions.probabilities.tolist(),
            strict=True,
        ):
            numbers = [f"{number:.6g}" for number in (*pair, *probabilities)]
            if self.is_csv:
                writer.writerow([safe_cell(name), safe_cell(label), *numbers, self.weights])
            else:
                values = [self.weights, name, label, *map(float, numbers)]
                file.write(json.dumps(dict(zip(self.columns, values, strict=True))) + "\n")
        file.flush()  # a killed program loses at most the last batch
