"""The last lines on the screen."""

import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.analysis import scores as metrics
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import Report


class Summary(ReportCallback):
    """Says on the screen what came out and where to look."""

    def compute(self, analysis: Analysis) -> None:
        """Ask for the passes over test and training set."""
        _ = analysis.test, analysis.train

    def write(self, analysis: Analysis, report: Report) -> None:
        """Print it."""
        if not analysis.problems:  # an earlier attempt may have left some
            (report.folder / "problems.txt").unlink(missing_ok=True)
        test, train, classes = analysis.test, analysis.train, analysis.data.splits.classes
        flipped = analysis.flip_tta
        low, high = metrics.accuracy_interval(len(test) - len(test.errors), len(test))
        by_class = metrics.class_scores(metrics.confusion(test)).recall
        worst = int(np.nanargmin(by_class))
        command = "tensorboard" if shutil.which("tensorboard") else str(Path(sys.executable).with_name("tensorboard"))
        rank_zero_info(
            f"\ntest accuracy  {test.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})   loss {test.loss:.3f}   "
            f"({analysis.weights}; {len(test.errors)} of {len(test)} images wrong)\n"
            + (f"flip TTA  {flipped.accuracy:.2%}   loss {flipped.loss:.3f}\n" if flipped else "")
            + f"train accuracy {train.accuracy:.2%}   loss {train.loss:.3f}   ({len(train)} images, not augmented)\n"
            f"weakest class  {classes[worst]}, {by_class[worst]:.2%}\n"
            f"report         {report.folder / 'index.html'}"
            + (
                f"\nTensorBoard    {shlex.join([command, '--logdir', str(report.folder.parent.parent.parent)])}"
                if report.logs
                else ""
            )
        )
