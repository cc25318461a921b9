"""Workarounds for Lightning, torch and jsonargparse, and all uses of their private parts.

Tried with torch 2.15.0, pytorch-lightning 2.6.6 and jsonargparse 4.53.0. Each has a test in
tests/training/test_compat.py that fails when upstream changes, so that it can be removed or repaired
(configure_jsonargparse also in tests/test_security.py, set_instantiators in tests/cli/test_bad_options.py,
forget_validation in tests/training/test_lr_finder.py, start_average in tests/training/test_averaging.py).

Not in this module, but also tested there:
    data/loaders.py: LazyDataLoader, because Lightning creates the first iterator before it restores the progress
    training/distributed.py: a file for the rendezvous, because torch's TCPStore listens on all network interfaces
    training/torchrun.py: names for torch's keys, because torchrun's store keeps them when it restarts the processes
    training/run.py: Start.epochs reads the progress of Lightning's loops
    callbacks/provenance.py: TensorBoard's `file_writer`, because Lightning's log_hyperparams logs the metrics again
Without a test, because it needs a CPU with AVX512_BF16: utils/hardware.py, corrupts_bfloat16_gradients.
"""

import copy
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, set_parsing_settings
from jsonargparse._paths import Path as RecipePath
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.cli import LightningArgumentParser
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
READ_TEXT = RecipePath.read_text
M = TypeVar("M", bound=nn.Module)


def hide_warnings() -> None:
    """Hide messages of Lightning that are misleading or irrelevant here; print all others without the file's path."""
    warnings.formatwarning = lambda message, category, filename, lineno, line=None: f"warning: {message}\n"
    for message in (
        "The `srun` command is available on your system but is not used",  # cli/checks.py refuses where it is needed
        "The '(val|test)_dataloader' does not have many workers",  # they only index an array, which needs no workers
        "Total length of `list` across ranks is zero",  # how a data module says that there is no validation
        "Checkpoint directory .* exists and is not empty",  # a resumed run's
        "Experiment logs directory .* exists and is not empty",  # training/run.py keeps what Lightning would delete
        "Embedding dir exists",  # that of the report which is created again
        "You're resuming from a checkpoint that ended before the epoch ended and",  # our loaders do resume there
        "You called `self.log.* but have no logger configured",  # the report needs none
        "The number of training batches .* is smaller than the logging interval",  # each epoch is logged in any case
        "Precision .* is not supported by the model summary",  # only its estimate in MB is concerned
        "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's own use of torch
    ):
        warnings.filterwarnings("ignore", message=message)
    # Its remark that checkpoints contain more than weights.
    logging.getLogger("pytorch_lightning.trainer.connectors.checkpoint_connector").setLevel(logging.WARNING)
    # Advertisements of a service.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: "Tip:" not in str(record.msg))


def configure_jsonargparse() -> None:
    """Refuse recipes that name classes which run commands (os, subprocess, ...), or a class where none is expected.

    Both will be the defaults of jsonargparse 5. Also, read recipes as UTF-8: jsonargparse uses the encoding of the
    locale, which is another one on Windows.
    """
    set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
    RecipePath.read_text = _read_text  # type: ignore[method-assign, assignment]  # no option for it


def _read_text(path: RecipePath) -> str:
    if path._std_io or path._is_url or path._is_fsspec:
        return READ_TEXT(path)
    return Path(path.absolute).read_text(encoding="utf-8")


def set_help(parser: ArgumentParser, option: str, text: str) -> None:
    """Replace the help of an option that Lightning or jsonargparse adds, which argparse offers no method for."""
    next(action for action in parser._actions if action.dest == option).help = text


def set_instantiators(
    parser: LightningArgumentParser, instantiators: list[tuple[Callable[..., Any], type, bool]]
) -> None:
    """Set the functions that create objects; jsonargparse deprecates its method for it, and the one that uses them.

    Args:
        parser: Of Lightning's CLI, which calls the deprecated method.
        instantiators: Function, base class, and whether its subclasses are created so, too.
    """
    parser.instantiate_classes = partial(parser.instantiate, instantiators=instantiators)


def count_epochs_when_resuming(trainer: Trainer) -> None:
    """Let a training with max_steps resume in the correct epoch.

    Lightning's FitLoop.restarting repeats the finished epoch, from its last batch index, if max_steps is set.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]  # no option for it


def keep_signal_handlers(trainer: Trainer) -> None:
    """Keep Lightning from setting its own signal handlers, which act in the middle of a step."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]  # no option


def load_no_other_checkpoint(trainer: Trainer) -> None:
    """Load a checkpoint only if it is given.

    Lightning also loads an `hpc_ckpt_N.ckpt` of the current folder in a SLURM job, and the file that an
    OnExceptionCheckpoint has left there.
    """
    connector = trainer._checkpoint_connector
    select = connector._select_ckpt_path
    connector._select_ckpt_path = (  # type: ignore[method-assign]  # no option for it
        lambda fn, path, **options: select(fn, path, **options) if path else None
    )


def epochs_finished(trainer: Trainer) -> int:
    """Return the number of finished epochs.

    Trainer.current_epoch is one too small after resuming a training that was finished.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current  # typed as a base class without `processed`
    return int(progress.processed)


def forget_validation(trainer: Trainer) -> None:
    """Let a training start as if there had been no validation, after a test run in the same Trainer.

    ModelCheckpoint would expect its metric even if the training ends before the first validation.
    """
    trainer.fit_loop.epoch_loop.val_loop._has_run = False


def start_average(averaging: WeightAveraging, module: LightningModule) -> None:
    """Set an average that was never updated to the current weights; Lightning keeps the initial ones."""
    average = averaging._average_model
    if average is not None and not average.n_averaged:
        average.module.load_state_dict(module.state_dict())


def copy_without_hooks(module: M) -> M:
    """Copy a module without its hooks: those of PyTorchProfiler cannot be copied, and none is meant for a copy."""
    hooks = (getattr(part, name) for part in module.modules() for name in HOOKS)
    return copy.deepcopy(module, {id(found): OrderedDict() for found in hooks})
