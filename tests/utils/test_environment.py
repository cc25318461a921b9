import subprocess

import pytest
import torch

import cifar_lit
from cifar_lit.utils.environment import describe
from tests.conftest import ROOT


def test_description_contains_versions_and_hardware() -> None:
    machine = describe()
    assert machine["cifar_lit"] == cifar_lit.__version__
    assert machine["torch"] == torch.__version__.split("+")[0]
    assert machine["cpu"] and machine["threads"]


def test_commit_is_that_of_the_checkout_whoever_owns_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def git() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)

    head = git()
    if head.returncode:
        pytest.skip("these tests do not belong to a checkout")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container into which it is mounted
    assert "dubious ownership" in git().stderr
    assert str(describe()["commit"]).removesuffix("-dirty") == head.stdout.strip()
