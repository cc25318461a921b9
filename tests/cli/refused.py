"""Run a command that refuses its arguments."""

import importlib
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from tests.conftest import CONFIGS


class Unavailable(Callback):
    """A callback whose package is not installed."""

    def __init__(self) -> None:
        importlib.import_module("not_installed")


class NeedsPackage(Callback):
    """A callback that looks for its package when the training starts, like DeviceStatsMonitor."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        raise ModuleNotFoundError("the package not_installed is missing")


CPU = torch.device("cpu")


class Interval(str, Enum):
    """A type that YAML has no text for."""

    EPOCH = "epoch"


class Device(Callback):
    """A callback with an argument that jsonargparse has no text for."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device


class Rate(Callback):
    """A callback with an argument that YAML has no text for."""

    def __init__(self, interval: str = Interval.EPOCH) -> None:
        self.interval = interval


DEMO = ("--config", str(CONFIGS / "demo.yaml"))
USAGE, FAILURE = 2, 1


def refused(
    capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], None], *args: str, code: int = USAGE
) -> str:
    """Return the error message, after checking the exit code."""
    with pytest.raises(SystemExit) as stopped:
        command(list(args))
    message = capsys.readouterr().err
    assert stopped.value.code == code
    assert "Traceback" not in message and message.count("error:") == 1
    return message[message.index("error:") :]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file in a folder."""
    return {
        str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file()
    }
