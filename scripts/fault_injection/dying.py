"""Kill or stop one process of several, or a worker: the run must end with a word, and can be gone on with."""

import os
import random
import signal
import time
from pathlib import Path

import zygote
from harness import Row, Settings
from resuming import LIMIT, SMALL, differences

TIMEOUT = 10  # seconds that a process waits for another


def measure(settings: Settings) -> list[Row]:
    """Do each of them."""
    draw = random.Random(settings.seed)
    long = [*SMALL, "--trainer.max_epochs", "6"]  # not over before it is hit, on a fast machine either
    pair = [*long, "--process_timeout", str(TIMEOUT), "--data.num_workers", "0"]
    one = [*long, "--data.num_workers", "2", "--data.augment_on", "workers"]
    rows = []
    for what, args, processes, signum in (
        ("the second of two processes", pair, 2, signal.SIGSTOP),
        ("a worker that prepares images", one, 1, signal.SIGKILL),
        ("the second of two processes", pair, 2, signal.SIGKILL),
        ("the first of two processes", pair, 2, signal.SIGKILL),
    )[: 2 if settings.quick else 4]:
        rows.append(_one(settings, draw, what, args, processes, signum))
        settings.tell(rows[-1])
    return rows


def _one(
    settings: Settings, draw: random.Random, what: str, args: list[str], processes: int, signum: signal.Signals
) -> Row:
    name = f"{what} {signum.name}".replace(" ", "_")
    whole, hit = settings.scratch / f"{name}_whole", settings.scratch / name
    run = zygote.run(args, whole, processes)
    assert run.wait(LIMIT) == 0, run.said
    run = zygote.run(args, hit, processes)
    while "epoch 1/" not in run.said and run.code is None:
        time.sleep(0.02)
    time.sleep(draw.uniform(0, 1))
    if processes == 1:
        victim = _workers(run.processes[0].pid)[0]
        os.kill(victim, signum)
    else:
        victim = run.processes["first" not in what].pid
        os.kill(victim, signum)
    began = time.monotonic()
    others = zygote.Group([process for process in run.processes if process.pid != victim])
    code = others.wait(LIMIT)
    took = time.monotonic() - began
    run.kill()
    run.wait(LIMIT)
    said = run.said
    wrong = []
    if code != 1:
        wrong.append(f"ended with {code}")
    if "error:" not in said:
        wrong.append("said nothing")
    if "Traceback" in said[said.rfind("epoch 1/") :]:
        wrong.append("a traceback")
    if took > 2 * TIMEOUT + 5:
        wrong.append(f"took {took:.0f} s")
    run = zygote.run([*args, "--ckpt_path", "last"], hit, processes)
    if run.wait(LIMIT) != 0:
        wrong.append(f"going on ended with {run.code}")
    else:
        wrong += differences(whole, hit)
    settings.done(whole, hit, keep=bool(wrong))
    how = f"{signum.name}; the others ended after {took:.1f} s"
    return Row("dying", what, how, "; ".join(wrong) or "an error, and the same after going on", not wrong)


def _workers(pid: int) -> list[int]:
    """Return the child processes of one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # has just ended
            continue
        if parent == pid:
            found.append(int(folder.name))
    return sorted(found)
