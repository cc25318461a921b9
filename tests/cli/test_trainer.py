"""Arguments of the Trainer that depend on the machine."""

from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from cifar_lit.cli.trainer import build, gpu_indices
from cifar_lit.training.checkpointing import BestCheckpoint


@pytest.mark.parametrize(
    ("devices", "indices"), [("auto", [0, 1, 2]), (-1, [0, 1, 2]), (2, [0, 1]), ([2], [2]), ("1,2", [1, 2]), ("x", [])]
)
def test_gpus_in_use(devices: Any, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert gpu_indices(devices) == indices


def test_user_may_keep_more_checkpoints_of_the_same_metric() -> None:
    more = ModelCheckpoint(monitor="val/accuracy", mode="max", save_top_k=3)
    trainer = build([more, BestCheckpoint()], accelerator="cpu", logger=False)
    assert len({saver.state_key for saver in trainer.checkpoint_callbacks}) == len(trainer.checkpoint_callbacks)
