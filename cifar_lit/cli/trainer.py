"""The Trainer: our defaults for the options that are not given, and the callbacks in order."""

import re
import sys
from typing import Any

from jsonargparse import Namespace
from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit import callbacks as parts
from cifar_lit.cli.checks import as_list, check_srun
from cifar_lit.models.resnet import smallest_strided
from cifar_lit.training import compat
from cifar_lit.training.averaging import AverageStart
from cifar_lit.training.checkpointing import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from cifar_lit.training.loggers import RunTensorBoardLogger
from cifar_lit.training.run_folder import RunFolder
from cifar_lit.training.validation import ValidationCheck
from cifar_lit.utils import hardware
from cifar_lit.utils.errors import UsageError


def defaults(config: Namespace, trainer: Namespace) -> dict[str, Any]:
    """Return the Trainer's arguments that depend on the device, the data or other options.

    Args:
        config: All options.
        trainer: The Trainer's options, with callbacks and plugins instantiated.
    """
    smallest = smallest_strided(config.data.image_size, config.model.stem)
    chosen: dict[str, Any] = {"precision": choose_precision(trainer, smallest)}
    if trainer.benchmark is None and not trainer.deterministic:
        chosen["benchmark"] = True  # for cuDNN: all batches but the last have the same shape
    if trainer.logger in (None, True):
        chosen["logger"] = RunTensorBoardLogger()
    if not any(isinstance(plugin, CheckpointIO) for plugin in as_list(trainer.plugins)):
        chosen["plugins"] = [*as_list(trainer.plugins), AtomicCheckpointIO()]
    if trainer.enable_model_summary is None:
        chosen["enable_model_summary"] = False  # EpochHistory prints the number of parameters
    bar = any(isinstance(callback, ProgressBar) for callback in as_list(trainer.callbacks))
    if trainer.enable_progress_bar is None and not bar and not sys.stderr.isatty():
        chosen["enable_progress_bar"] = False  # a log file gets one line for each epoch
    validates = config.data.val_size and config.trainer.limit_val_batches != 0
    if validates and trainer.enable_checkpointing is not False:
        chosen["callbacks"] = [*as_list(trainer.callbacks), BestCheckpoint()]
    return chosen


def choose_precision(trainer: Namespace, smallest: int) -> str | int:
    """Return the given precision if it is safe; by default print and return the fastest that is.

    Args:
        trainer: The Trainer's options.
        smallest: Height and width in px of the smallest input of a strided convolution.
    """
    device = hardware.choose_device(str(trainer.accelerator))
    given: str | int | None = trainer.precision
    if given is None:
        precision, reason = hardware.choose_precision(device, smallest, gpu_indices(trainer.get("devices", 1)))
        rank_zero_info(f"device {reason}; precision {precision} (trainer.precision)")
        return precision
    if re.search("bf16|^16", str(given)) and hardware.corrupts_bfloat16_gradients(device, smallest):
        raise UsageError(
            f"trainer.precision={given} computes incorrect gradients on this CPU if feature maps shrink to 1 px; use "
            "trainer.precision=32-true, a larger data.image_size or model.stem=cifar"
        )
    return given


def gpu_indices(devices: int | str | list[int]) -> list[int]:
    """Return the CUDA devices that `Trainer(devices=...)` uses; none if it refuses the value."""
    try:
        return CUDAAccelerator.parse_devices(-1 if devices == "auto" else devices) or []
    except (MisconfigurationException, TypeError, ValueError):
        return []


def build(callbacks: list[Callback], **options: Any) -> Trainer:
    """Build the Trainer.

    Args:
        callbacks: The user's and ours.
        options: Of the Trainer.

    Raises:
        UsageError: Lightning refuses an option.
    """
    try:
        trainer = Trainer(callbacks=ordered(callbacks, options), **options)
    except (ImportError, TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        reason = " ".join(str(error).split()).rstrip(".!")
        other = options.get("accelerator", "auto") not in ("auto", "cpu")
        remedy = f"change that trainer option{', or use --trainer.accelerator auto' * other}"
        raise UsageError(f"trainer: {reason}; {remedy}") from None
    if isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment):
        check_srun(trainer.world_size, trainer.num_nodes)
    if trainer.world_size > 1 and not isinstance(options.get("val_check_interval"), int | float | None):
        raise UsageError(
            "trainer.val_check_interval as a time depends on each process's clock: a process that validates would "
            "wait forever for one that still trains; use a number of steps or a fraction of an epoch"
        )
    compat.count_epochs_when_resuming(trainer)
    compat.keep_signal_handlers(trainer)
    compat.load_no_other_checkpoint(trainer)
    return trainer


def ordered(callbacks: list[Callback], options: dict[str, Any]) -> list[Callback]:
    """Return the callbacks in the order of their dependencies, all parts of the report in a single callback.

    The RunFolder comes first, so that the others know it, and AverageStart before the averages. The history is complete
    before the report reads it. The report's page summarizes what its other parts wrote. LastCheckpoint comes last, so
    that `last.ckpt` contains the state of the others at that step.
    """
    report = [callback for callback in callbacks if isinstance(callback, parts.ReportCallback)]
    page = [part for part in report if isinstance(part, parts.HTMLReport)]
    figures = [part for part in report if part not in page]
    last = [callback for callback in callbacks if isinstance(callback, LastCheckpoint)]
    users = [callback for callback in callbacks if callback not in [*report, *last]]
    ours = [RunFolder(), ValidationCheck(), AverageStart(), *users]
    summary = [] if options.get("fast_dev_run") else [parts.Summary()]  # scores of a few steps say nothing
    ours += [parts.EpochHistory(), parts.Report([*figures, parts.Curves(), *page, *summary])]
    if options.get("enable_progress_bar") is not False and not any(isinstance(one, ProgressBar) for one in ours):
        ours.append(parts.ProgressBar())
    return ours if options.get("enable_checkpointing") is False else [*ours, *last]
