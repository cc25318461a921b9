"""When the report is made."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report, record_failure


class Reporter(Callback, ABC):
    """Reports at the end of fitting, from the best checkpoint's weights (else the last ones).

    Nothing is made under `fast_dev_run`, which leaves no results.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier training of the same trainer."""
        Analysis.forget(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute in all processes, write in the first."""
        if not getattr(trainer, "fast_dev_run", False):
            analysis = Analysis.of(trainer, pl_module)
            self.make(analysis, analysis.run / "report")

    @abstractmethod
    def make(self, analysis: Analysis, folder: Path) -> None:
        """Report on an analysis, in a folder."""


class ReportCallback(Reporter):
    """A part of the report."""

    def make(self, analysis: Analysis, folder: Path) -> None:
        """Make this part; where that fails, note why, for the training and the other parts must not be lost.

        In several processes a failure to compute is raised nevertheless: the others would wait for this one forever.
        """
        make_all([self], analysis, folder)

    def compute(self, analysis: Analysis) -> None:
        """Ask for what all processes must compute together."""

    @abstractmethod
    def write(self, analysis: Analysis, report: Report) -> None:
        """Write this part; called in the first process only."""


def make_all(parts: Sequence[ReportCallback], analysis: Analysis, folder: Path) -> None:
    """Make parts of the report as `ReportCallback.make` does; nothing is written before all is computed.

    Otherwise the other processes would wait for the first one between two parts, no longer than they wait for anything.
    """
    able = []
    for part in parts:
        try:
            part.compute(analysis)
        except Exception as error:
            if analysis.trainer.world_size > 1:
                raise
            record_failure(analysis, folder, type(part).__name__, error)
        else:
            able.append(part)
    for part in able if analysis.trainer.is_global_zero else []:
        try:
            part.write(analysis, Report(folder, analysis.trainer))
        except Exception as error:
            record_failure(analysis, folder, type(part).__name__, error)


class CombinedReport(Reporter):
    """All parts of the report as one callback, because Lightning calls every callback six times a step.

    Args:
        parts: What to make, in this order.
    """

    def __init__(self, parts: Sequence[ReportCallback]) -> None:
        self.parts = parts

    def make(self, analysis: Analysis, folder: Path) -> None:
        """Make all parts."""
        make_all(self.parts, analysis, folder)
