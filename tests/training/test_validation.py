from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from cifar_lit.models.schedules import Schedule
from cifar_lit.training.validation import ValidationCheck
from cifar_lit.utils.errors import UsageError
from tests.models.test_schedules import train  # four epochs of five batches

TOO_SHORT = [
    {"max_epochs": 2, "check_val_every_n_epoch": 3},
    {"max_steps": 4},
    {"max_steps": 2, "accumulate_grad_batches": 2},
    {"max_steps": 8, "check_val_every_n_epoch": 2},
    {"val_check_interval": 21, "check_val_every_n_epoch": None},
]
LONG_ENOUGH = [
    {"max_epochs": 3, "check_val_every_n_epoch": 3},
    {"max_steps": 5},
    {"max_steps": 3, "accumulate_grad_batches": 2},
    {"max_steps": 4, "val_check_interval": 0.5},
    {"val_check_interval": 20, "check_val_every_n_epoch": None},
]


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")  # Lightning's, after the training
@pytest.mark.parametrize("options", TOO_SHORT, ids=str)
def test_training_that_ends_before_its_first_validation(options: dict[str, Any], tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/loss")
    with pytest.warns(UserWarning, match="before its first validation"):
        trained = train(Schedule(), tmp_path, callbacks=[ValidationCheck(), best], **options)
    assert not trained.losses and not best.best_model_path
    with pytest.raises(UsageError, match=r"EarlyStopping needs a validation.*trainer\.check_val_every_n_epoch"):
        train(Schedule(), tmp_path, callbacks=[ValidationCheck(), EarlyStopping("val/loss")], **options)
    with pytest.raises(UsageError, match=r"model\.schedule\.name=plateau needs a validation"):
        train(Schedule("plateau"), tmp_path, callbacks=[ValidationCheck()], **options)


@pytest.mark.parametrize("options", LONG_ENOUGH, ids=str)
def test_training_that_reaches_its_first_validation(options: dict[str, Any], tmp_path: Path) -> None:
    callbacks = [ValidationCheck(), EarlyStopping("val/loss"), ModelCheckpoint(tmp_path, monitor="val/loss")]
    assert train(Schedule("plateau"), tmp_path, callbacks=callbacks, **options).losses
