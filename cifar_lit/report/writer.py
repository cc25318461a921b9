"""Where a report goes: files in its folder, images and numbers in the loggers."""

import csv
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from cifar_lit.analysis.predictions import Predictions, write_csv
from cifar_lit.report.drawing import to_array
from cifar_lit.report.loggers import log_image
from cifar_lit.utils.errors import RunError
from cifar_lit.utils.files import atomic_write, atomic_write_text, safe_cell


class ReportWriter:
    """Writes the results of one run.

    Where a logger fails, that is recorded; the files are written, and the other loggers get the same.

    Args:
        folder: Created if it does not exist.
        loggers: Get the same numbers, and the same images as far as they take any.
        step: The global step to log them at.
        checkpoints: Folder of the checkpoints, where the temperature belongs; None to keep it in the report only.

    Attributes:
        figures: Names of the figures written so far.
        failures: Reasons why parts of the report could not be created, by the part's name.
    """

    def __init__(
        self, folder: Path, loggers: Sequence[Logger] = (), step: int = 0, checkpoints: Path | None = None
    ) -> None:
        self.folder = folder
        self.checkpoints = checkpoints
        self.loggers = loggers
        self.tensorboards = [one for one in loggers if isinstance(one, TensorBoardLogger)]
        self.step = step
        self.figures: list[str] = []
        self.failures: dict[str, str] = {}

    def figure(self, name: str, figure: Figure) -> None:
        """Write `NAME.png`, and log the image."""
        pixels = to_array(figure)
        with self._open(f"{name}.png", "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
        self.figures.append(name)
        self._log(name, self.loggers, lambda logger: log_image(logger, f"report/{name}", pixels, self.step))

    def table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write `NAME.csv`."""
        with self._open(f"{name}.csv", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for row in (header, *rows):
                writer.writerow([safe_cell(cell) for cell in row])

    def predictions(
        self, name: str, predictions: Predictions, classes: Sequence[str], files: Sequence[str] | None
    ) -> None:
        """Write `NAME.csv`; see `write_csv`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_csv(self.folder / f"{name}.csv", predictions, classes, files)

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `NAME.json`."""
        self.text(f"{name}.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def text(self, name: str, content: str) -> None:
        """Write a text file, UTF-8."""
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.folder / name, content)

    def scalars(self, values: Mapping[str, float]) -> None:
        """Log numbers."""
        self._log("scalars", self.loggers, lambda logger: logger.log_metrics(dict(values), self.step))

    def embedding(
        self,
        name: str,
        vectors: NDArray[np.float32],
        header: Sequence[str],
        rows: Sequence[Sequence[Any]],
        images: NDArray[np.uint8],
    ) -> None:
        """Log vectors `(N, D)` with a row of labels and an image `(N, H, W, 3)` each, for TensorBoard's Projector."""
        labels = [[" ".join(str(cell).split()) for cell in row] for row in rows]  # class names may contain tabs
        thumbnails = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        columns = list(header)
        self._log(
            name,
            self.tensorboards,
            lambda logger: logger.experiment.add_embedding(vectors, labels, thumbnails, self.step, name, columns),
        )

    def record_failure(self, part: str, error: Exception) -> str:
        """Print why a part could not be created, add the traceback to `failures.txt`, and return the reason."""
        reason = " ".join(str(error).split()) or type(error).__name__
        mode = "a" if self.failures else "w"
        self.failures[part] = reason
        print(f"report: {part} could not be created: {reason}", file=sys.stderr)
        with suppress(OSError):  # the disk may be full
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "failures.txt", mode, encoding="utf-8") as file:
                file.writelines([f"{part}\n", *traceback.format_exception(error), "\n"])
        return reason

    def raise_if_failed(self, remedy: str) -> None:
        """Raise if parts could not be created.

        Args:
            remedy: What is kept, and what to do.

        Raises:
            RunError: Naming the parts.
        """
        if self.failures:
            file = self.folder / "failures.txt"
            details = f", and in full in {file}" if file.exists() else ""
            parts = ", ".join(self.failures)
            raise RunError(
                f"parts of the report could not be created: {parts}; the reasons are above{details}; {remedy}"
            )

    def _log(self, part: str, loggers: Iterable[Logger], log: Callable[[Any], None]) -> None:
        for logger in loggers:
            try:
                log(logger)
            except Exception as error:
                self.record_failure(f"{type(logger).__name__} ({part})", error)

    def _open(self, name: str, mode: str = "w", **options: Any) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        return atomic_write(self.folder / name, mode, **options)
