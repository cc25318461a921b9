import os
import platform
import subprocess
import sys

import pytest
import torch

from cifar_lit.utils.hardware import (
    available_cores,
    choose_device,
    choose_precision,
    limited_threads,
)
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("capability", "precision"), [((9, 0), "bf16-mixed"), ((8, 0), "bf16-mixed"), ((7, 5), "16-mixed")]
)
def test_precision_of_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((9, 0), capability)[index])
    assert choose_device("auto") == choose_device("gpu") == "cuda"
    older = ", older than Ampere" * (capability < (8, 0))
    assert choose_precision("cuda", 4, [1]) == (precision, f"GPU 1{older}")
    assert choose_precision("cuda", 4, [0])[0] == "bf16-mixed"
    assert choose_precision("cuda", 4, [0, 1])[0] == precision  # that of the oldest


@pytest.mark.parametrize(
    ("features", "smallest", "precision", "reason"),
    [
        ({"amx_tile": True, "avx512_bf16": True, "avx512_f": True}, 4, "bf16-mixed", "AMX"),
        ({"avx512_bf16": True, "avx512_f": True}, 4, "bf16-mixed", "AVX512_BF16"),
        ({"avx512_bf16": True, "avx512_f": True}, 1, "32-true", "images are too small"),
        ({"avx2": True}, 4, "32-true", "without"),
    ],
)
def test_precision_of_cpus(
    features: dict[str, bool], smallest: int, precision: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    chosen, why = choose_precision("cpu", smallest)
    assert chosen == precision and reason in why


def test_available_cores_respect_affinity_and_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(allowed)})
            assert available_cores() == 1
        finally:
            os.sched_setaffinity(0, allowed)
    cores = available_cores()
    assert 1 <= cores <= (os.cpu_count() or 1)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert available_cores() == 1
    for odd in ("1000", "", "many"):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", odd)
        assert available_cores() == cores


@pytest.mark.parametrize(
    ("set_by_user", "processes", "expected"), [(None, 1, "2 None"), (None, 2, "1 1"), ("3", 1, "3 3")]
)
def test_threads_are_no_more_than_the_cores_of_a_container(
    set_by_user: str | None, processes: int, expected: str
) -> None:
    code = f"""
import os, torch
from cifar_lit.utils.hardware import limit_threads
torch.set_num_threads(3)
limit_threads({processes})
print(torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"))
"""
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    env |= {"LOKY_MAX_CPU_COUNT": "2"} | ({"OMP_NUM_THREADS": set_by_user} if set_by_user else {})
    process = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == expected, process.stderr


def test_threads_are_restored_after_a_training_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    with limited_threads(2):
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (1, "1")
    assert torch.get_num_threads() == 4 and "OMP_NUM_THREADS" not in os.environ
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no mallopt")
def test_freed_memory_is_reused() -> None:
    code = """
import resource, sys, torch
from cifar_lit.utils.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
for _ in range(20):  # the heap grows for up to 7 steps, until its gaps fit the requested sizes
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
