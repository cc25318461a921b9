"""Curves over epochs."""

from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report


class Curves(ReportCallback):
    """Draws how the training went."""

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `history.csv` and `curves.png`."""
        if rows := analysis.history:
            keys = list(dict.fromkeys(key for row in rows for key in row))
            report.table("history", keys, [[row.get(key, "") for key in keys] for row in rows])
            report.figure("curves", figures.curves(rows))
