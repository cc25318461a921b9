"""Where results are written: files in the run's `report/`, and TensorBoard."""

import csv
import json
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from cifar_lit.report.analysis import Analysis
from cifar_lit.report.figures import to_array
from cifar_lit.utils.errors import RunError
from cifar_lit.utils.files import atomic_write, atomic_write_text, safe_cell


class Report:
    """Writes one run's results.

    Args:
        folder: Made if it is not there.
        trainer: Its loggers get the same images and numbers, at its current step.
    """

    def __init__(self, folder: Path, trainer: Trainer) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.trainer = trainer

    @property
    def logs(self) -> bool:
        """Whether anything goes to TensorBoard."""
        return any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers)

    def figure(self, name: str, figure: Figure) -> None:
        """Write `NAME.png`, and the same to TensorBoard's Images."""
        pixels = to_array(figure)
        with atomic_write(self.folder / f"{name}.png", "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"report/{name}", pixels, self.trainer.global_step, dataformats="HWC")

    def table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write `NAME.csv`."""
        with atomic_write(self.folder / f"{name}.csv", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for row in (header, *rows):
                writer.writerow([safe_cell(cell) for cell in row])

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `NAME.json`."""
        text = json.dumps(content, indent=2, ensure_ascii=False)
        atomic_write_text(self.folder / f"{name}.json", text + "\n")

    def embedding(
        self,
        name: str,
        vectors: NDArray[np.float32],
        header: Sequence[str],
        rows: Sequence[Sequence[Any]],
        images: NDArray[np.uint8],
    ) -> None:
        """Put vectors `(N, D)`, a row of labels for each, and images `(N, H, W, 3)` into TensorBoard's Projector."""
        thumbnails = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        clean = [[" ".join(str(cell).split()) for cell in row] for row in rows]  # a class may have any name
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                step = self.trainer.global_step
                logger.experiment.add_embedding(vectors, clean, thumbnails, step, name, list(header))

    def scalars(self, values: Mapping[str, float]) -> None:
        """Add the numbers to every logger."""
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(values), self.trainer.global_step)


def record_failure(analysis: Analysis, folder: Path, name: str, error: Exception) -> str:
    """Say on the screen and in the report's `problems.txt` why a part of it could not be made; return the reason."""
    reason = " ".join(str(error).split()) or type(error).__name__
    mode = "a" if analysis.problems else "w"
    analysis.problems[name] = reason
    print(f"report: {name} could not be made: {reason}", file=sys.stderr)
    with suppress(OSError):  # the disk may be what is full
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "problems.txt", mode, encoding="utf-8") as file:
            file.writelines([f"{name}\n", *traceback.format_exception(error), "\n"])
    return reason


def raise_if_failed(analysis: Analysis, remedy: str) -> None:
    """Fail if parts of the report could not be made; `remedy` says what is safe and what to do."""
    if analysis.problems:
        raise RunError(
            f"parts of the report could not be made: {', '.join(analysis.problems)}; the reasons are above, and in "
            f"full in the report's problems.txt; {remedy}"
        )
