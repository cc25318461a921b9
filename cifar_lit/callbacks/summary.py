"""The last lines on the screen."""

import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.analysis import scores
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.training.loggers import RunTensorBoardLogger


class Summary(ReportCallback):
    """Prints the final scores, and where the report is."""

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Print them."""
        test, train, flip_tta = results.test, results.train, results.test_flip_tta
        low, high = scores.accuracy_interval(len(test) - len(test.errors), len(test))
        recall = scores.class_scores(scores.confusion(test)).recall
        worst = int(np.nanargmin(recall))
        lines = [
            "",
            f"test accuracy  {test.accuracy:.2%} (95% interval {low:.2%} to {high:.2%})   loss {test.loss:.3f}   "
            f"({results.weights}; {len(test.errors)} of {len(test)} images misclassified)",
        ]
        if flip_tta:
            lines.append(f"with flip TTA  {flip_tta.accuracy:.2%}   loss {flip_tta.loss:.3f}")
        if train:
            count = f"{len(train)} images, not augmented"
            lines.append(f"train accuracy {train.accuracy:.2%}   loss {train.loss:.3f}   ({count})")
        lines += [
            f"weakest class  {results.classes[worst]}, {recall[worst]:.2%}",
            f"report         {writer.folder / 'index.html'}",
        ]
        found = shutil.which("tensorboard")
        command = "tensorboard" if found else str(Path(sys.executable).with_name("tensorboard"))
        recipe = str(writer.folder.parents[1])  # its runs: those of another one would stretch the axes
        for logger in writer.tensorboards:
            folder = recipe if isinstance(logger, RunTensorBoardLogger) else logger.root_dir
            lines.append(f"TensorBoard    {shlex.join([command, '--logdir', folder])}")
        rank_zero_info("\n".join(lines))
