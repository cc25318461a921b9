"""Arguments of the Trainer that depend on the machine."""

import os
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from cifar_lit.cli.trainer import build, gpu_indices
from cifar_lit.training.checkpointing import BestCheckpoint
from cifar_lit.utils.errors import UsageError


@pytest.mark.parametrize(
    ("devices", "indices"), [("auto", [0, 1, 2]), (-1, [0, 1, 2]), (2, [0, 1]), ([2], [2]), ("1,2", [1, 2]), ("x", [])]
)
def test_gpus_in_use(devices: Any, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert gpu_indices(devices) == indices


def test_forgotten_srun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"})
    two: dict[str, Any] = {"accelerator": "cpu", "strategy": "ddp", "logger": False, "devices": 2}
    assert build([], **two).world_size == 2  # this process starts the second one
    with pytest.raises(UsageError, match="put srun before the command"):
        build([], **two | {"devices": 1, "num_nodes": 2})
    os.environ["SLURM_NTASKS"] = "2"
    with pytest.raises(UsageError, match="put srun before the command"):
        build([], **two)
    assert build([], **two | {"devices": 1}).world_size == 1


def test_user_may_keep_more_checkpoints_of_the_same_metric() -> None:
    more = ModelCheckpoint(monitor="val/accuracy", mode="max", save_top_k=3)
    trainer = build([more, BestCheckpoint()], accelerator="cpu", logger=False)
    assert len({saver.state_key for saver in trainer.checkpoint_callbacks}) == len(trainer.checkpoint_callbacks)
