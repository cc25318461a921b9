from pathlib import Path

from pytorch_lightning import Trainer

from cifar_lit.models.schedules import Schedule
from cifar_lit.training.checkpointing import LastCheckpoint
from tests.models.test_schedules import train  # epochs of five batches


class Recording(LastCheckpoint):
    """Records the steps at which it saves."""

    def __init__(self, every_n_train_steps: int) -> None:
        super().__init__(every_n_train_steps)
        self.saved: list[int] = []

    def _save(self, trainer: Trainer, signum: int | None) -> None:
        super()._save(trainer, signum)
        self.saved.append(trainer.global_step)


def test_checkpoint_that_is_due_at_a_validation_is_saved_after_the_next_step(tmp_path: Path) -> None:
    last = Recording(2)
    train(Schedule(), tmp_path, callbacks=[last], max_epochs=1, val_check_interval=2)
    assert last.saved == [3, 5]  # Lightning would skip the validation of a run that was resumed from step 2 or 4
