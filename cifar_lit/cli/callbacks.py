"""Checks of Lightning's callbacks among the options."""

import re
import warnings
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cifar_lit.cli.checks import as_list
from cifar_lit.utils.errors import UsageError

METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
COUNTERS = ("epoch", "step")  # which ModelCheckpoint can monitor, too
UNSUPPORTED = {
    "BackboneFinetuning": "needs a module with an attribute `backbone`; use model.freeze_epochs and "
    "model.backbone_lr_mult",
    "BatchSizeFinder": "changes the batch size after the training is planned and recorded; set data.batch_size",
    "LearningRateFinder": "changes the learning rate after the training is planned and recorded; use lr_find",
    "ModelPruning": "cannot be recorded, so that the run could not be resumed; prune the trained network with "
    "torch.nn.utils.prune",
    "StochasticWeightAveraging": "replaces the schedule, and cannot be recorded, so that the run could not be resumed; "
    "use EMAWeightAveraging",
    "Timer": "cannot be recorded, so that the run could not be resumed; use trainer.max_time",
}


def check_callbacks(config: Namespace, parser: ArgumentParser) -> None:
    """Refuse callbacks that cannot work with this training, or whose run could not be resumed.

    Raises:
        UsageError: With the callback and what to use instead.
    """
    callbacks = as_list(config.trainer.callbacks)
    paths = [callback.class_path for callback in callbacks]
    known = all(path.startswith(("pytorch_lightning.", "cifar_lit.")) for path in paths)
    known &= not any(path.endswith(".LearningRateMonitor") for path in paths)  # others may log metrics of their own
    for callback in callbacks:
        name, arguments = callback.class_path.rpartition(".")[2], callback.get("init_args") or {}
        option = f"trainer.callbacks: {name}"
        if name in UNSUPPORTED and callback.class_path.startswith("pytorch_lightning."):
            raise UsageError(f"{option} {UNSUPPORTED[name]}")
        monitor = arguments.get("monitor")
        if known and monitor and monitor not in METRICS + COUNTERS:
            raise UsageError(f"{option} with monitor={monitor}: there is no such metric; use {', '.join(METRICS)}")
        mode, better = arguments.get("mode"), "max" if str(monitor).endswith("/accuracy") else "min"
        if monitor in METRICS and mode in {"min", "max"} - {better}:  # Lightning's default is min, whatever the metric
            raise UsageError(
                f"{option} with monitor={monitor} and mode={mode} takes the worst value for the best; "
                f"add --trainer.callbacks.mode {better}"
            )
        if argument := _looks_too_early(arguments, config.trainer):
            raise UsageError(
                f"{option} with monitor={monitor}: this metric is logged at the end of an epoch, after the "
                f"validation; add --trainer.callbacks.{argument} true"
            )
        if arguments.get("auto_insert_metric_name") and re.search(r"\{[^}]*/", arguments.get("filename") or ""):
            raise UsageError(
                f"{option} with filename={arguments['filename']}: the name of a metric contains a slash and would "
                "create a folder; add --trainer.callbacks.auto_insert_metric_name false"
            )
        _check_recorded(option, callback, parser)


def _looks_too_early(arguments: Any, trainer: Namespace) -> str | None:
    """Return the argument that lets a callback look for a training metric at the end of an epoch, if it would not."""
    at_epoch_end = trainer.val_check_interval in (None, 1.0) and trainer.check_val_every_n_epoch == 1  # the default
    for name, value in arguments.items():
        if name.endswith("on_train_epoch_end") and not (at_epoch_end if value is None else value):
            return name if str(arguments.get("monitor")).startswith("train/") else None
    return None


def _check_recorded(option: str, callback: Namespace, parser: ArgumentParser) -> None:
    """Refuse arguments that config.yaml cannot contain: the run could not be resumed."""
    alone = Namespace(trainer=Namespace(callbacks=[callback]))  # type: ignore[no-untyped-call]  # it has no types
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # jsonargparse writes its warning in place of the value
            parser.dump(alone, skip_validation=True)
    except Exception as error:  # of any type that a YAML representer raises
        raise UsageError(
            f"{option} cannot be recorded in config.yaml, so that the run could not be resumed "
            f"({' '.join(str(error).split())}); its arguments must be numbers, strings, lists or dicts"
        ) from None
