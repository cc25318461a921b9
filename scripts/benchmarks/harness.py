"""Measurements side by side: the contenders of a part alternate in one process, for several rounds."""

import contextlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cifar_lit.report.epochs import EpochRow

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)  # roughly CIFAR-10's
NO_EXTRAS = ("--page.num_cams", "0", "--report", "quick", "--projector.num_images", "0")


@dataclass
class Settings:
    """Options of a part.

    Attributes:
        quick: Only check that everything runs, on tiny sizes.
        root: Image folder (train/, test/), real or synthetic.
        scratch: Empty folder for output.
    """

    quick: bool
    root: Path
    scratch: Path

    @property
    def cache(self) -> Path:
        """Cache of decoded images, shared by all parts."""
        return self.scratch.parent / "cache"


@dataclass
class Times:
    """Seconds of several rounds of the same work."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Row:
    """One comparison.

    Attributes:
        part: Name of the part.
        what: What was measured.
        ours: Our measurement, with its unit.
        peer: The reference, with its unit.
        result: Comparison of the two.
        goal: Required and desired result; empty if there is none.
        met: Whether the required result was reached; None if there is none or this machine cannot show it.
        seconds: Times of all rounds, for the JSON file.
    """

    part: str
    what: str
    ours: str
    peer: str
    result: str
    goal: str = ""
    met: bool | None = None
    seconds: Mapping[str, list[float]] = field(default_factory=dict)


def measure(part: str, settings: Settings) -> list[Row]:
    """Run a part; called in a process that ends after it."""
    from cifar_lit.utils.hardware import keep_freed_memory

    multiprocessing.set_start_method(None, force=True)  # the default one; this process has inherited "forkserver"
    keep_freed_memory()  # as fit does on CPUs; for both sides
    rows: list[Row] = importlib.import_module(part).measure(settings)
    return rows


def alternate(rounds: int, **contenders: Callable[[], object]) -> dict[str, Times]:
    """Time each contender in turn.

    Args:
        rounds: Rounds after one warm-up round; 0 counts the warm-up round.
        contenders: Functions to time. If one returns a float, that is taken as its time in seconds.
    """
    times = {name: Times() for name in contenders}
    for turn in range(0 if rounds else 1, rounds + 1 if rounds else 2):
        for name, contender in contenders.items():
            start = time.perf_counter()
            result = contender()
            seconds = time.perf_counter() - start
            if turn:
                times[name].seconds.append(result if isinstance(result, float) else seconds)
    return times


def faster(
    part: str,
    what: str,
    ours: Times,
    peer: Times,
    images: int,
    against: str,
    must: float | None = None,
    aim: float | None = None,
) -> Row:
    """Compare two ways to do the same work on `images` images: how many times faster is ours?"""
    ratio = peer.median / ours.median
    return Row(
        part,
        what,
        f"{_speed(images, ours)} images/s",
        f"{against}: {_speed(images, peer)} images/s",
        f"{ratio:.2f}x",
        f"must {must:g}x" + (f", aim {aim:g}x" if aim else "") if must else "",
        ratio >= must if must else None,
        {"ours": ours.seconds, "peer": peer.seconds},
    )


def slower_by(
    part: str,
    what: str,
    ours: Times,
    peer: Times,
    against: str,
    must: float | None = None,
    aim: float | None = None,
    steps: int = 1,
) -> Row:
    """Compare with less work: how much time does ours add? In ms a step if `steps` is above 1, else in seconds."""
    unit, factor = ("ms a step", 1000 / steps) if steps > 1 else ("s", 1.0)
    added = (ours.median - peer.median) * factor
    return Row(
        part,
        what,
        f"{_spread(ours, factor)} {unit}",
        f"{against}: {_spread(peer, factor)} {unit}",
        f"{added:+.3g} {unit}",
        f"must {must:+g}, aim {aim:+g}" if must is not None and aim is not None else "",
        added <= must if must is not None else None,
        {"ours": ours.seconds, "peer": peer.seconds},
    )


def _speed(images: int, times: Times) -> str:
    def text(value: float) -> str:  # three significant digits, without an exponent
        return f"{float(f'{value:.3g}'):,.10g}"

    low, high = images / max(times.seconds), images / min(times.seconds)
    return f"{text(images / times.median)} ({text(low)} to {text(high)})"


def _spread(times: Times, factor: float = 1.0) -> str:
    low, high = min(times.seconds) * factor, max(times.seconds) * factor
    return f"{times.median * factor:.3g} ({low:.3g} to {high:.3g})"


def python(
    *args: str, cwd: Path | None = None, threads: int | None = None, exit_code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, with cifar_lit importable, and check its exit code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    process = subprocess.run([sys.executable, *args], env=env, cwd=cwd, capture_output=True, text=True)
    assert process.returncode == exit_code, process.stderr
    return process


def epochs_of_newest_run(folder: Path) -> "tuple[EpochRow, ...]":
    """Return the epochs of the newest run in `folder`."""
    from cifar_lit.report.epochs import read_epochs

    run = max(folder.glob("lightning_logs/*/version_*"), key=os.path.getctime)
    return read_epochs(run / "report" / "history.csv")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress output and log messages."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
            yield
    finally:
        logging.disable(logging.NOTSET)


def table(rows: list[Row]) -> str:
    """Format a Markdown table: median (slowest to fastest round, or least to most seconds)."""
    lines = ["| part | what | ours | measured against | result | goal | met |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        met = {True: "yes", False: "no", None: ""}[row.met]
        lines.append(f"| {row.part} | {row.what} | {row.ours} | {row.peer} | {row.result} | {row.goal} | {met} |")
    return "\n".join(lines)


def save(path: Path, provenance: Mapping[str, object], rows: list[Row]) -> None:
    """Write everything as JSON."""
    content = {**provenance, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
