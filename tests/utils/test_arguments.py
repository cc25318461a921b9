"""The arguments of a command that is called from Python."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifar_lit import compare, evaluate, explain, export, fit, predict
from cifar_lit.utils.arguments import arguments
from tests.cli.refused import DEMO, refused

COMMANDS = [module.main for module in (fit, evaluate, explain, predict, export, compare)]


@pytest.mark.parametrize("main", COMMANDS)
@pytest.mark.parametrize("launcher", ["ipykernel_launcher.py", "colab_kernel_launcher.py", "ipykernel/__main__.py"])
def test_kernel_of_a_notebook_has_no_arguments_for_a_command(
    main: Callable[..., None], launcher: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/lib/{launcher}", "-f", "kernel-1.json"])
    assert "as a list" in refused(capsys, lambda _: main())
    assert "as a list" in refused(capsys, lambda _: main("--config demo"))


def test_numbers_and_paths_are_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments(["--config", Path("a"), 1]) == ["--config", "a", "1"]
    some: list[Any] = [*DEMO, "--trainer.max_epochs", 0]
    assert "trainer.max_epochs must be 1 or more" in refused(capsys, lambda _: fit.main(some))


def test_home_folder_is_expanded_where_the_shell_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = ["~/run", "--out=~/a.csv", "--trainer.default_root_dir=~", "--data.root", "~/images", "a~", "--tag=a=~/b"]
    expected = ["/home/me/run", "--out=/home/me/a.csv", "--trainer.default_root_dir=/home/me", "--data.root"]
    assert arguments(given) == [*expected, "/home/me/images", "a~", "--tag=a=~/b"]


def test_arguments_of_the_process_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit.py", "--config", "demo"])
    assert arguments(None) == ["--config", "demo"]
