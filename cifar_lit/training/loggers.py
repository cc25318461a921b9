"""The logger of `metrics.csv`, which a resumed run continues."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from cifar_lit.utils.files import atomic_write

SAVE_EVERY = 100  # steps


class ResumableCSVLogger(Logger):
    """Write metrics to `SAVE_DIR/NAME/version_N/metrics.csv`, keeping the rows before the step from which it resumes.

    Lightning's CSVLogger deletes an existing file and appends to its own, which a crash can leave incomplete.

    Args:
        save_dir: Folder of all runs.
        name: Folder of this recipe's runs.
        version: N.
        before_step: Earlier rows of this step and later are dropped, because the resumed run logs them again.
    """

    def __init__(self, save_dir: str, name: str, version: int, before_step: int = 0) -> None:
        super().__init__()
        self._name, self._version = name, version
        self.file = Path(save_dir, name, f"version_{version}", "metrics.csv")
        self.before_step = before_step
        self._rows: list[dict[str, Any]] | None = None  # None until the first row

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return self._name

    @property
    def version(self) -> int:
        """The number of the run."""
        return self._version

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` contains them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        if self._rows is None:
            self._rows = self._earlier_rows()
        step = len(self._rows) if step is None else step
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._rows.append({**values, "step": step})
        if (step + 1) % SAVE_EVERY == 0:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write all rows, with the columns in alphabetical order."""
        if self._rows:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.file, newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, sorted(set().union(*self._rows)))
                writer.writeheader()
                writer.writerows(self._rows)

    def _earlier_rows(self) -> list[dict[str, Any]]:
        if not (self.before_step and self.file.is_file()):
            return []
        with open(self.file, newline="", encoding="utf-8") as lines:
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(lines)]
        return [row for row in rows if int(row["step"]) < self.before_step]
