"""A CSV logger that a resumed run can go on with."""

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from cifar_lit.utils.files import atomic_write


class ResumableCSVLogger(CSVLogger):
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
        self._writer: _Writer | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer, begun with the earlier rows."""
        if self._writer is None:
            earlier = self._earlier()  # read before Lightning deletes the file
            self._experiment = self._writer = _Writer(self.log_dir)
            self._writer.metrics.extend(earlier)
            self._writer.save()
        return self._writer

    def _earlier(self) -> list[dict[str, Any]]:
        file = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if not (self.before_step and file.is_file()):
            return []
        with open(file, newline="", encoding="utf-8") as lines:
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(lines)]
        return [row for row in rows if int(row["step"]) < self.before_step]


class _Writer(ExperimentWriter):
    """Replaces the whole file each time, where Lightning's own adds to it: a file of any instant can be read."""

    def save(self) -> None:
        """Write all rows; the columns are sorted by name, as in Lightning's own."""
        if not self.metrics:
            return
        with atomic_write(self.metrics_file_path, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, sorted(set().union(*self.metrics)))
            writer.writeheader()
            writer.writerows(self.metrics)
