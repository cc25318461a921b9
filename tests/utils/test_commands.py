import os
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from cifar_lit.utils.commands import repeatable


def test_command_is_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("from cifar_lit.utils.commands import command; print(command())")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "--data.root=my images", "it's"])
    runpy.run_path("mine.py", run_name="__main__")
    runpy.run_module("mine", run_name="__main__", alter_sys=True)
    script, module = map(shlex.split, capsys.readouterr().out.splitlines())
    assert script == ["python", "mine.py", *sys.argv[1:]]
    assert module == ["python", "-m", "mine", *sys.argv[1:]]


TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "host"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "8"}


@pytest.mark.parametrize(
    ("env", "launcher"),
    [
        ({}, ["python"]),
        (SRUN, ["srun", "--nodes", "2", "--ntasks", "8", "python"]),
        (TORCHRUN, ["torchrun", "--nnodes", "1", "--nproc-per-node", "4"]),
        (
            TORCHRUN | {"GROUP_WORLD_SIZE": "2"},
            [*"torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint host:29500".split()],
        ),
    ],
)
def test_command_to_repeat_starts_as_many_processes(
    env: dict[str, str], launcher: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": os.path.dirname(sys.executable), **env})
    assert shlex.split(repeatable("fit", "--ckpt_path", "a b", processes=True)) == [
        *launcher,
        *("-m", "cifar_lit.fit", "--ckpt_path", "a b"),
    ]
    assert repeatable("evaluate", "run") == "python -m cifar_lit.evaluate run"
