import os
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed as dist

from cifar_lit.training.distributed import RENDEZVOUS, start_processes
from cifar_lit.training.run import Start, Training
from cifar_lit.training.run_folder import RunFolder
from cifar_lit.utils.signals import Interrupted, stop
from tests.conftest import QUIET_TRAINER


@pytest.mark.parametrize("first", [Interrupted(15), RuntimeError("Connection closed by peer")])
@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("resumed", [True, False])
def test_run_that_is_stopped_before_its_first_step_says_what_is_saved(
    first: BaseException, saved: bool, resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: Training) -> None:
        raise first  # in this process, or in another one, which this process notices before the signal

    monkeypatch.setattr(stop, "signum", 15)
    monkeypatch.setattr(Training, "_fit", fit)
    run = tmp_path / "demo" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    if saved:
        (run / "checkpoints" / "last.ckpt").touch()
    logger = CSVLogger(tmp_path, "mine", "all")
    metrics = Path(logger.log_dir, "metrics.csv")
    metrics.parent.mkdir(parents=True)
    metrics.write_text("of an earlier run")
    options = {**QUIET_TRAINER, "logger": logger}
    trainer = Trainer(callbacks=[RunFolder()], enable_checkpointing=False, max_epochs=1, **options)
    start = Start(run if resumed else None)
    nothing = cast(Any, None)
    training = Training(trainer, nothing, nothing, start, run.parent, "", [], 0, nothing, timedelta(0))
    with pytest.raises(Interrupted) as stopped:
        training.run()
    assert (f"--ckpt_path {run}" in stopped.value.advice) == (saved and resumed)
    assert ("nothing was saved yet" in stopped.value.advice) != (saved and resumed)
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]  # a new one is removed
    assert metrics.with_name("metrics_1.csv").read_text() == "of an earlier run"  # Lightning would delete it


def test_process_can_train_again_in_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: Training) -> None:
        strategy = DDPStrategy(parallel_devices=[torch.device("cpu")], cluster_environment=LightningEnvironment())
        start_processes(strategy, self.args, timedelta(seconds=20), None)
        assert dist.is_initialized() and RENDEZVOUS in os.environ

    monkeypatch.setattr(Training, "_fit", fit)
    nothing = cast(Any, None)
    for _ in range(2):
        trainer = Trainer(callbacks=[RunFolder()], enable_checkpointing=False, max_epochs=1, **QUIET_TRAINER)
        Training(trainer, nothing, nothing, Start(), tmp_path, "", [], 0, nothing, timedelta(0)).run()
        assert not dist.is_initialized() and not {RENDEZVOUS, "LOCAL_RANK"} & os.environ.keys()
