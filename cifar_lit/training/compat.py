"""Workarounds for other libraries."""

import logging
import warnings

from jsonargparse import set_parsing_settings
from pytorch_lightning import Trainer


def hide_warnings() -> None:
    """Hide what the libraries say to everybody and nobody can act on; everything else stays."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
    # It counts in 32 bits then, which is what its estimate of the size says.
    warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary")
    # Validation images only have to be sliced out of an array; workers would cost more than they save.
    warnings.filterwarnings("ignore", message="The '(val|test)_dataloader' does not have many workers")


def secure_jsonargparse() -> None:
    """Refuse classes that run commands (os, subprocess, ...) in a recipe."""
    set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)


def count_epochs_when_resuming(trainer: Trainer) -> None:
    """Keep Lightning from entering a finished epoch a second time where a training with max_steps is resumed."""
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
