"""Checks of Lightning's callbacks among the options."""

from jsonargparse import Namespace

from cifar_lit.cli.checks import as_list
from cifar_lit.utils.errors import UsageError

METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
COUNTERS = ("epoch", "step")  # which ModelCheckpoint can monitor, too
UNSUPPORTED = {
    "BackboneFinetuning": "needs a module with an attribute `backbone`; use a BaseFinetuning of your own, for "
    "pl_module.net.backbone",
    "BatchSizeFinder": "changes the batch size after the training is planned and recorded; set data.batch_size",
    "LearningRateFinder": "changes the learning rate after the training is planned and recorded; use lr_find",
    "ModelPruning": "cannot be recorded, so that the run could not be resumed; prune the trained network with "
    "torch.nn.utils.prune",
    "StochasticWeightAveraging": "replaces the schedule, and cannot be recorded, so that the run could not be resumed; "
    "use EMAWeightAveraging",
}


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
    for name in names:
        if name in UNSUPPORTED:
            raise UsageError(f"trainer.callbacks: {name} {UNSUPPORTED[name]}")
