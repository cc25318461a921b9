import os
from pathlib import Path

import pytest
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from cifar_lit.utils import slurm

STEP = {"SLURM_JOB_NAME": "mine", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}
TASKS = "SLURM_STEP_TASKS_PER_NODE"


@pytest.mark.parametrize(
    "odd",
    [
        {"SLURM_NTASKS": ""},
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"},  # a job's script
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"},  # the shell of salloc
    ],
)
def test_process_that_srun_has_not_started_is_none_of_several(
    odd: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"SLURM_JOB_NAME": "mine", **odd})
    assert SLURMEnvironment.detect()
    slurm.tidy_variables()
    assert not SLURMEnvironment.detect()


@pytest.mark.parametrize(("tasks", "per_node"), [("4", "4"), ("2(x2)", "2"), ("3,1", None), ("2(x2),1", None)])
def test_tasks_of_a_node_are_those_of_the_step(
    tasks: str, per_node: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", STEP | {TASKS: tasks})
    slurm.tidy_variables()
    assert SLURMEnvironment.detect() and os.environ.get("SLURM_NTASKS_PER_NODE") == per_node


def test_reason_of_a_refused_requeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "scontrol" in str(slurm.requeue())  # is not installed
    scontrol = tmp_path / "scontrol"
    for code, reason in ((0, None), (1, "requeue 7: access denied")):
        scontrol.write_text(f'#!/bin/sh\necho "$@: access denied" >&2\nexit {code}\n')
        scontrol.chmod(0o755)
        assert slurm.requeue() == reason


def test_job_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"SLURM_JOB_ID": "9"})
    assert slurm.job() == "9"
    os.environ |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    assert slurm.job() == "7_2"
