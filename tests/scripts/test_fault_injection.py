"""scripts/inject_faults with --quick: runs that are killed or whose disk is full lose nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

PARTS = ("resume", "checkpoint_writes", "full_disk", "process_death")  # process_agreement is in test_processes.py, too


def inject_faults(*args: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / "fault_injection"), *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_lost(part: str, tmp_path: Path) -> None:
    done = inject_faults(part, "--quick", "--scratch", "runs", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {part} |" in done.stdout and "survived (" in done.stdout


def test_unknown_part(tmp_path: Path) -> None:
    done = inject_faults("flood", folder=tmp_path)
    assert done.returncode == 2
    assert "unknown part flood; choose from resume, checkpoint_writes" in done.stderr
    assert not list(tmp_path.iterdir())
