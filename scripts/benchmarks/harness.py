"""How everything here is measured: side by side in one run, alternating, several times."""

import contextlib
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Settings:
    """What the parts are told.

    Attributes:
        quick: Check that everything works, on tiny sizes; the figures mean nothing.
        root: A folder of real images (train/, test/), or of generated ones.
        scratch: An empty folder for what has to be written.
    """

    quick: bool
    root: Path
    scratch: Path


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
        part: Where it belongs.
        ours: What was measured, with its unit.
        peer: What it is measured against, with its unit.
        result: What came out of the two.
        goal: What has to come out, and what is aimed at; empty where nothing was set.
        met: Whether it did; None where nothing was set, or where this machine cannot show it.
        seconds: All rounds, for the JSON file.
    """

    part: str
    what: str
    ours: str
    peer: str
    result: str
    goal: str = ""
    met: bool | None = None
    seconds: Mapping[str, list[float]] = field(default_factory=dict)


def alternate(rounds: int, **contenders: Callable[[], float | None]) -> dict[str, Times]:
    """Run each contender in turn, `rounds` times after one warm-up, and return its times.

    A contender may return the seconds that count; else its whole call does. With 0 rounds the warm-up counts.
    """
    times = {name: Times() for name in contenders}
    for turn in range(0 if rounds else 1, rounds + 1 if rounds else 2):
        for name, contender in contenders.items():
            began = time.perf_counter()
            told = contender()
            took = time.perf_counter() - began if told is None else told
            if turn:
                times[name].seconds.append(took)
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
    """Compare two ways to do the same: how many times faster is ours?"""
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
    part: str, what: str, ours: Times, peer: Times, against: str, must: float | None, aim: float | None, per: int = 1
) -> Row:
    """Compare with less work: how much does ours add? `per` is the number of steps, for times a step."""
    unit, factor = ("ms a step", 1000 / per) if per > 1 else ("s", 1.0)
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
    from cifar_lit.callbacks.history import three_digits

    low, high = images / max(times.seconds), images / min(times.seconds)
    return f"{three_digits(images / times.median)} ({three_digits(low)} to {three_digits(high)})"


def _spread(times: Times, factor: float = 1.0) -> str:
    low, high = min(times.seconds) * factor, max(times.seconds) * factor
    return f"{times.median * factor:.3g} ({low:.3g} to {high:.3g})"


def python(code: str, *args: str, threads: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process of its own, with cifar_lit importable."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    return subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, text=True)


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keep what is printed and logged off the screen."""
    logging.disable(logging.WARNING)
    try:
        yield from _redirected()
    finally:
        logging.disable(logging.NOTSET)


def _redirected() -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        yield said


def table(rows: list[Row]) -> str:
    """Write a Markdown table: median (slowest to fastest round, or least to most seconds)."""
    lines = ["| part | what | ours | measured against | result | goal | met |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        met = {True: "yes", False: "no", None: ""}[row.met]
        lines.append(f"| {row.part} | {row.what} | {row.ours} | {row.peer} | {row.result} | {row.goal} | {met} |")
    return "\n".join(lines)


def save(path: Path, notes: Mapping[str, object], rows: list[Row]) -> None:
    """Write everything as JSON."""
    path.write_text(json.dumps({**notes, "rows": [asdict(row) for row in rows]}, indent=2) + "\n", encoding="utf-8")
