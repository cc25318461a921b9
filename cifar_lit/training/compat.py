"""Workarounds for other libraries."""

import logging
import warnings


def silence_noise() -> None:
    """Hide what the libraries say to everybody and nobody can act on; everything else stays."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
    # It counts in 32 bits then, which is what its estimate of the size says.
    warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary")
    # Validation images only have to be sliced out of an array; workers would cost more than they save.
    warnings.filterwarnings("ignore", message="The '(val|test)_dataloader' does not have many workers")
    # The empty list is how a data module says that nothing is held out.
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    # Ours are: they ask the trainer where to go on.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended and")
    # Our own files are in the folder first, and our CSV logger deletes nothing.
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
