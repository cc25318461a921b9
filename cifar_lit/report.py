"""When a part of the report is made, and where it goes: files in the run's `report/`, and TensorBoard."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from cifar_lit.analysis import Analysis
from cifar_lit.figures import to_array


class Report:
    """Writes one run's results.

    Args:
        folder: Made if it is not there.
        trainer: Its loggers get the same pictures and numbers, at its current step.
    """

    def __init__(self, folder: Path, trainer: Trainer) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.trainer = trainer

    def figure(self, name: str, figure: Figure) -> None:
        """Write `NAME.png`, and the same to TensorBoard's Images."""
        pixels = to_array(figure)
        Image.fromarray(pixels).save(self.folder / f"{name}.png")
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"report/{name}", pixels, self.trainer.global_step, dataformats="HWC")

    def table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write `NAME.csv`."""
        with open(self.folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `NAME.json`."""
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (self.folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    def scalars(self, values: Mapping[str, float]) -> None:
        """Add the numbers to every logger."""
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(values), self.trainer.global_step)


class ReportCallback(Callback, ABC):
    """A part of the report, made at the end of fitting from the best checkpoint's weights (else the last ones).

    Nothing is made under `fast_dev_run`, which leaves no results.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier training of the same trainer."""
        Analysis.forget(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute in all processes, write in the first."""
        if getattr(trainer, "fast_dev_run", False):
            return
        analysis = Analysis.of(trainer, pl_module)
        self.compute(analysis)
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "report"
        if trainer.is_global_zero:
            self.write(analysis, Report(folder, trainer))

    def compute(self, analysis: Analysis) -> None:
        """Ask for what all processes must compute together."""

    @abstractmethod
    def write(self, analysis: Analysis, report: Report) -> None:
        """Write this part; called in the first process only."""
