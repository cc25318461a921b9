"""The report at the end of fitting: its parts, and the callback that writes all of them."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.analysis.evidence import Plan
from cifar_lit.callbacks.any_module import ModuleOptions, evaluate_module
from cifar_lit.callbacks.evaluation import NO_NEEDS, Needs, evaluate_network
from cifar_lit.callbacks.history import EpochHistory
from cifar_lit.callbacks.provenance import SaveProvenance
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models import weights as checkpoints
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.resnet import ResNet18
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.training import compat
from cifar_lit.training.checkpointing import LastCheckpoint
from cifar_lit.training.lr_finder import LRRange
from cifar_lit.training.run_folder import folder_of, run_name
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.text import counted
from cifar_lit.utils.trainers import find_callbacks, is_fast_dev_run

FEW = 4  # images for the evidence of a fast_dev_run


class ReportCallback(Callback, ABC):
    """A part of the report. Several of them in one Trainer share one evaluation of the network."""

    needs = NO_NEEDS  # what is evaluated for this part beside test images and some training images
    plan: Plan | None = None  # how much evidence for the CAMs it needs
    module_options: ModuleOptions | None = None  # of a part that works with any module
    python_only: frozenset[str] = frozenset()  # arguments that are no options of the command line

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before training, what would fail in the report."""
        if stage == "fit" and not _is_ours(trainer, pl_module):
            self.check_module(pl_module)

    def check_module(self, module: LightningModule) -> None:
        """Raise UsageError if this part cannot work with a module that is not ImageClassifier."""
        if self.module_options is None:
            raise UsageError(
                f"{type(self).__name__} needs the module and data of cifar_lit: "
                "trainer.fit(ImageClassifier(...), datamodule=ImageDataModule(...))"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report, unless another part does."""
        # mypy would refuse the abstract class as an argument
        parts = [one for one in find_callbacks(trainer, Callback) if isinstance(one, ReportCallback)]
        if self is parts[0]:
            Report(parts).on_fit_end(trainer, pl_module)

    @abstractmethod
    def write(self, results: Any, writer: ReportWriter) -> None:
        """Write this part; called in the first process only.

        Args:
            results: RunResults, or ErrorResults for a part with `module_options` if the module is not ImageClassifier.
            writer: Where to.
        """


class Report(Callback):
    """Evaluates the network once at the end of fitting, and lets each part write.

    The best weights are evaluated if a ModelCheckpoint monitors a metric, else the last ones. Under `fast_dev_run`
    the report is written to a temporary folder. A part that fails is recorded; the others are still written.

    Args:
        parts: In the order in which they are written.

    Attributes:
        lr_range: Curve of the learning rate range test, if it ran; saved in checkpoints.
        writer: Of the last report, with its failures.
    """

    def __init__(self, parts: Sequence[ReportCallback]) -> None:
        self.parts = parts
        self.lr_range: LRRange | None = None
        self.writer: ReportWriter | None = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate in all processes, write in the first."""
        rank_zero_info("creating the report")
        if not is_fast_dev_run(trainer):
            self._report(trainer, pl_module, folder_of(trainer))
            return
        with tempfile.TemporaryDirectory() as folder:
            self._report(trainer, pl_module, Path(folder))
        steps, validation = trainer.global_step, ", validation" if trainer.num_val_batches else ""
        names = ", ".join(type(part).__name__ for part in self.parts)
        rank_zero_info(
            f"fast_dev_run: tried {counted(steps, 'training step')}{validation}, the final evaluation and the "
            f"report ({names}), all on a few images; not checkpoints and loggers. Nothing is kept"
        )

    def _report(self, trainer: Trainer, pl_module: LightningModule, folder: Path) -> None:
        self.writer = ReportWriter(folder / "report", trainer.loggers, trainer.global_step, folder / "checkpoints")
        try:
            if not _is_ours(trainer, pl_module):
                if trainer.is_global_zero:
                    self.write(self._module_results(trainer, pl_module), self.writer)
                return
            results = self._results(trainer, pl_module, folder)
        except UsageError:
            raise
        except Exception as error:
            if trainer.world_size > 1:  # the other processes would wait for this one
                raise
            self.writer.record_failure("evaluation", error)
            return
        if trainer.is_global_zero:
            self.write(results, self.writer)

    def write(self, results: ErrorResults, writer: ReportWriter) -> None:
        """Write all parts."""
        self.writer = writer
        for part in self.parts:
            try:
                part.write(results, writer)
            except Exception as error:
                writer.record_failure(type(part).__name__, error)
        if not writer.failures:  # of an earlier report of this run
            (writer.folder / "failures.txt").unlink(missing_ok=True)

    def record_lr_range(self, lr_range: LRRange) -> None:
        """Keep the curve of the learning rate range test."""
        self.lr_range = lr_range

    @property
    def needs(self) -> Needs:
        """What the parts need beside the predictions for test and training images."""
        return reduce(Needs.union, (part.needs for part in self.parts), NO_NEEDS)

    @property
    def plan(self) -> Plan | None:
        """How much evidence for the CAMs to compute; None for none."""
        return next((part.plan for part in self.parts if part.plan), None)

    def raise_if_failed(self, remedy: str) -> None:
        """Raise RunError, with the remedy, if parts of the last report could not be created."""
        if self.writer:
            self.writer.raise_if_failed(remedy)

    def _results(self, trainer: Trainer, module: LightningModule, folder: Path) -> RunResults:
        data: Any = getattr(trainer, "datamodule", None)
        assert isinstance(module, ImageClassifier)
        for averaging in find_callbacks(trainer, WeightAveraging):
            averaging.on_train_end(trainer, module)  # Lightning skips it if a finished training is resumed
        net = compat.copy_without_hooks(module.net)  # the module stays as it is after training
        weights, checkpoint = _load_best(trainer, net)
        return evaluate_network(
            trainer,
            data,
            net,
            name=run_name(folder),
            weights=weights,
            checkpoint=checkpoint,
            epochs=[row for history in find_callbacks(trainer, EpochHistory) for row in history.rows],
            provenance=next((saver.provenance for saver in find_callbacks(trainer, SaveProvenance)), None),
            needs=self.needs,
            lr_range=self.lr_range,
            evidence=self.plan and self.plan.at_most(FEW) if is_fast_dev_run(trainer) else self.plan,
        )

    def _module_results(self, trainer: Trainer, module: LightningModule) -> ErrorResults:
        options = ModuleOptions()
        for part in self.parts:
            options = options.merge(part.module_options or options)
        return evaluate_module(trainer, module, options, max(getattr(part, "k", 0) for part in self.parts))

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rate range test's curve as plain numbers."""
        curve = self.lr_range
        return {"lr_range": curve and [curve.lrs.tolist(), curve.losses.tolist(), curve.suggested]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        if curve := state_dict["lr_range"]:
            lrs, losses, suggested = curve
            self.lr_range = LRRange(np.array(lrs), np.array(losses, np.float32), suggested)


def _is_ours(trainer: Trainer, module: LightningModule) -> bool:
    return isinstance(module, ImageClassifier) and isinstance(getattr(trainer, "datamodule", None), ImageDataModule)


def find_report(trainer: Trainer) -> Report:
    """Return the trainer's report."""
    return find_callbacks(trainer, Report)[0]


def _load_best(trainer: Trainer, net: ResNet18) -> tuple[str, Path | None]:
    """Load the weights with the best validation metric, if any; return which weights they are, and their file."""
    savers = find_callbacks(trainer, ModelCheckpoint)
    best = [saver for saver in savers if str(saver.monitor).startswith("val/") and saver.best_model_path]
    best.sort(key=lambda saver: saver.filename != "best")  # the project's own before a user's
    if not best:
        if trainer.world_size > 1:  # since the last step each process has BatchNorm statistics of its own
            net.load_state_dict(trainer.strategy.broadcast({k: v.cpu() for k, v in net.state_dict().items()}))
        last = next((saver.file for saver in find_callbacks(trainer, LastCheckpoint)), None)
        return f"last weights, epoch {compat.epochs_finished(trainer)}", last
    epoch, state = 0, {}
    if trainer.is_global_zero:  # other machines may not have the file
        checkpoint = checkpoints.read(Path(best[0].best_model_path))
        epoch, state = checkpoint["epoch"] + 1, checkpoint["state_dict"]
    epoch, state = trainer.strategy.broadcast((epoch, state))
    net.load_state_dict(checkpoints.net_state(state))
    return f"best weights, epoch {epoch}", Path(best[0].best_model_path)
