"""A CSV logger that a resumed run can go on with."""

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter


class ContinuedCSVLogger(CSVLogger):
    """Keeps the rows of an earlier part of the same run, where Lightning's own deletes them.

    Args:
        save_dir: As for CSVLogger.
        name: As for CSVLogger.
        version: As for CSVLogger.
        before_step: Rows of this step and later are dropped: the resumed run writes them again.
    """

    def __init__(self, save_dir: str, name: str, version: int, before_step: int = 0) -> None:
        super().__init__(save_dir, name, version)
        self.before_step = before_step

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer, begun with the earlier rows."""
        earlier = self._earlier() if self._experiment is None else []  # read before Lightning deletes the file
        writer: ExperimentWriter = super().experiment
        writer.metrics.extend(earlier)
        return writer

    def _earlier(self) -> list[dict[str, Any]]:
        file = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if not (self.before_step and file.is_file()):
            return []
        with open(file, newline="", encoding="utf-8") as lines:
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(lines)]
        return [row for row in rows if int(row["step"]) < self.before_step]
