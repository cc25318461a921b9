import os
import platform
import subprocess
import sys

import pytest
import torch

from cifar_lit.utils.hardware import available_cores, choose_device, choose_precision, describe


@pytest.mark.parametrize(
    ("capability", "precision"), [((9, 0), "bf16-mixed"), ((8, 0), "bf16-mixed"), ((7, 5), "16-mixed")]
)
def test_precision_of_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_device("auto") == choose_device("gpu") == "cuda"
    assert choose_precision("cuda", 4)[0] == precision


@pytest.mark.parametrize(
    ("amx", "avx512", "chosen"),
    [(True, True, "bf16-mixed AMX"), (False, True, "bf16-mixed AVX512_BF16"), (False, False, "32-true without")],
)
def test_precision_of_cpus(monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, chosen: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    precision, reason = choose_precision("cpu", 4)
    expected_precision, expected_word = chosen.split()
    assert precision == expected_precision
    assert expected_word in reason


def test_a_run_can_be_repeated_from_its_notes() -> None:
    notes = describe()
    assert notes["torch"] == torch.__version__.split("+")[0]
    assert notes["cpu"] and notes["threads"]


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code += "\nfrom cifar_lit.utils.hardware import available_cores; print(available_cores())"
    if hasattr(os, "sched_setaffinity"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "1\n"
    cores = available_cores()
    assert 1 <= cores <= (os.cpu_count() or 1)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert available_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert available_cores() == cores


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no mallopt")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    code = """
import resource, sys, torch
from cifar_lit.utils.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
for _ in range(20):  # the heap grows for up to 7 steps, until its gaps fit what is asked for
    torch.zeros(64, 1024, 256).add(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(64, 1024, 256).add(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "return")
    }
    assert faults["keep"] < faults["return"] / 10
