"""Curves over epochs, and of the learning rate range test."""

from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report import figures, tables
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter


class Curves(ReportCallback):
    """Writes `history.csv` and `curves.png`; `lr_find.csv` and `lr_find.png` if the learning rate range test ran."""

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write tables and figures."""
        if results.epochs:
            writer.table("history", *tables.history(results))
            writer.figure("curves", figures.curves(results))
        if results.lr_range:
            writer.table("lr_find", *tables.lr_range(results))
            writer.figure("lr_find", figures.lr_range(results))
