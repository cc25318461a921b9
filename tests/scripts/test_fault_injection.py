"""The short forms of scripts/inject_faults: nothing is lost when a run is killed, starved or cut off."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("part", ["resuming", "writing", "full_disk", "agreeing", "dying"])
def test_nothing_is_lost(part: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "fault_injection"),
        part,
        "--quick",
        "--scratch",
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {part} |" in done.stdout and "survived (" in done.stdout


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "fault_injection"), "drowning"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no part drowning; there are resuming, writing" in done.stderr
    assert not list(tmp_path.iterdir())
