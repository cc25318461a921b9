"""Find out before the training that it ends before its first validation."""

import math

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_warn

from cifar_lit.models.schedules import has_validation
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.trainers import find_callbacks

OPTIONS = "trainer.max_epochs, trainer.max_steps, trainer.check_val_every_n_epoch, trainer.val_check_interval"


class ValidationCheck(Callback):
    """Refuses a training that ends before its first validation if it needs one; warns if it would keep no best weights.

    Raises:
        UsageError: The schedule is `plateau`, or a callback such as EarlyStopping monitors a validation metric.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check."""
        if not has_validation(trainer) or _reached(trainer):
            return
        callbacks = find_callbacks(trainer, Callback)
        users = [callback for callback in callbacks if str(getattr(callback, "monitor", "")).startswith("val/")]
        needed = [type(user).__name__ for user in users if not isinstance(user, Checkpoint)]
        if getattr(pl_module, "plateau", None):
            needed.append("model.schedule.name=plateau")
        if needed:
            raise UsageError(
                f"{', '.join(needed)} needs a validation, but the training ends before the first one: train longer or "
                f"validate earlier ({OPTIONS})"
            )
        if users:
            rank_zero_warn(f"the training ends before its first validation ({OPTIONS}): only the last weights are kept")


def _reached(trainer: Trainer) -> bool:
    """Return whether the training is long enough for a validation."""
    if trainer.val_check_batch is None:  # the interval is a time
        return True
    batches, accumulated = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    first = int(trainer.val_check_batch) + ((trainer.check_val_every_n_epoch or 1) - 1) * batches
    if 0 < (trainer.max_epochs or 0) * batches < first:
        return False
    epochs, rest = divmod(first - 1, batches)
    steps_before = epochs * math.ceil(batches / accumulated) + rest // accumulated
    return trainer.max_steps == -1 or steps_before < trainer.max_steps
