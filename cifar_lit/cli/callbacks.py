"""Checks of Lightning's callbacks among the options."""

from jsonargparse import Namespace

from cifar_lit.cli.checks import as_list
from cifar_lit.models.schedules import SCHEDULES
from cifar_lit.utils.errors import UsageError

METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
COUNTERS = ("epoch", "step")  # which ModelCheckpoint can monitor, too
FINDERS = {"BatchSizeFinder": "set data.batch_size", "LearningRateFinder": "use lr_find"}


def check_callbacks(config: Namespace) -> None:
    """Refuse callbacks that cannot work with this training.

    Raises:
        UsageError: With the callback and what to use instead.
    """
    paths = [callback.class_path for callback in as_list(config.trainer.callbacks)]
    names = [path.rpartition(".")[2] for path in paths]
    known = all(path.startswith(("pytorch_lightning.", "cifar_lit.")) for path in paths)
    if known and "LearningRateMonitor" not in names:  # others may log metrics of their own
        for name, callback in zip(names, as_list(config.trainer.callbacks), strict=True):
            monitor = (callback.get("init_args") or {}).get("monitor")
            if monitor and monitor not in METRICS + COUNTERS:
                raise UsageError(
                    f"trainer.callbacks: {name} with monitor={monitor}: there is no such metric; use "
                    f"{', '.join(METRICS)}"
                )
    schedule, memory_format = config.model.schedule.name, config.model.memory_format
    for name in names:
        if name in FINDERS:
            raise UsageError(
                f"trainer.callbacks: {name} changes the training after it is planned and recorded; {FINDERS[name]} "
                "instead"
            )
        if name == "StochasticWeightAveraging" and SCHEDULES[schedule].interval != "epoch":
            raise UsageError(
                f"trainer.callbacks: {name} cannot replace model.schedule.name={schedule}, only one that is updated "
                "every epoch (constant, step); use one of these, or EMAWeightAveraging"
            )
        if name == "ModelPruning" and memory_format == "channels_last":
            raise UsageError(
                f"trainer.callbacks: {name} cannot prune weights in channels-last format; use "
                "--model.memory_format contiguous"
            )
