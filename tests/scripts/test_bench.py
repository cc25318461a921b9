import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PARTS = {
    "augmentation",
    "loop",
    "start",
    "step",
    "throughput",
    "folder",
    "memory",
    "ending",
    "processes",
    "growth",
    "whole",
}


def bench(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmarks"), *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_every_part_measures_both_sides(tmp_path: Path) -> None:
    done = bench("--quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    notes = json.loads((tmp_path / "bench.json").read_text())
    assert {row["part"] for row in notes["rows"]} == PARTS
    for row in notes["rows"]:
        assert row["result"] and f"| {row['part']} | {row['what']} | {row['ours']} |" in done.stdout
        assert all(min(seconds) > 0 for seconds in row["seconds"].values())
    assert notes["commit"] and notes["cpu"] and notes["torch"] and notes["quick"]


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = bench("augmentations", folder=tmp_path)
    assert done.returncode == 2
    assert "no part augmentations; there are augmentation, loop" in done.stderr
    assert not list(tmp_path.iterdir())
