from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning.loggers import Logger

from cifar_lit.callbacks.provenance import SaveProvenance


class Recorder(Logger):
    name, version = "recorder", 0
    hyperparameters: Any = None

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        raise AssertionError("options are no metrics")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hyperparameters = params


class Failing(Recorder):
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")


def on_fit_end(loggers: list[Logger], is_global_zero: bool = True) -> None:
    config = Namespace(
        data=Namespace(source="digits", batch_size=8, classes=None, std=[0.1, 0.2]),
        model=Namespace(optimizer=Namespace(init_args=Namespace(lr=0.1))),
        trainer=Namespace(max_epochs=3, devices=1),
        seed_everything=0,
    )
    trainer: Any = SimpleNamespace(loggers=loggers, is_global_zero=is_global_zero)
    module: Any = None
    SaveProvenance(ArgumentParser(), config).on_fit_end(trainer, module)


def test_loggers_get_the_options_where_another_fails() -> None:
    recorder = Recorder()
    with pytest.warns(UserWarning, match="Failing could not log the hyperparameters: no route to host"):
        on_fit_end([Failing(), recorder])
    assert recorder.hyperparameters == {
        "model.optimizer.init_args.lr": 0.1,
        "data.batch_size": 8,
        "trainer.max_epochs": 3,
        "seed_everything": 0,
        "data.source": "digits",
        "data.std": "[0.1, 0.2]",
    }
    assert [*recorder.hyperparameters][:3] == ["model.optimizer.init_args.lr", "data.batch_size", "trainer.max_epochs"]


def test_other_processes_log_no_options() -> None:
    recorder = Recorder()
    on_fit_end([recorder], is_global_zero=False)
    assert recorder.hyperparameters is None
