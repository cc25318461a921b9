"""scripts/bench with --quick: its parts run and measure both sides."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

# Without startup, processes and end_to_end, which only start `cifar_lit.fit` and would take minutes here.
PARTS = "augmentation loop step throughput folder memory report predict scaling".split()


def bench(*args: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / "benchmarks"), *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_quick_run_measures_both_sides(tmp_path: Path) -> None:
    done = bench("--quick", *PARTS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "bench.json").read_text())
    assert {row["part"] for row in results["rows"]} == set(PARTS)
    for row in results["rows"]:
        assert row["result"] and f"| {row['part']} | {row['what']} | {row['ours']} |" in done.stdout
        assert all(min(seconds) > 0 for seconds in row["seconds"].values())
    assert results["commit"] and results["cpu"] and results["torch"] and results["quick"]


def test_unknown_part(tmp_path: Path) -> None:
    done = bench("augmentations", folder=tmp_path)
    assert done.returncode == 2
    assert "unknown part augmentations; choose from augmentation, loop" in done.stderr
    assert not list(tmp_path.iterdir())
