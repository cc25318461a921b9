"""Kill or stop one of several processes, or a worker: the run must end with an error message and be resumable."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import fork_server
from comparison import BLANK, SMALL, TIMEOUT_S, wait_and_compare
from harness import Row, Settings, remove

PROCESS_TIMEOUT_S = 10


def inject(settings: Settings) -> Iterator[Row]:
    """Test each kind of process."""
    rng = random.Random(settings.seed)
    long = [*SMALL, "--trainer.max_epochs", "6"]  # still running when the signal comes, even on a fast machine
    pair = [*long, "--process_timeout", str(PROCESS_TIMEOUT_S), "--data.num_workers", "0"]
    workers = [*long, "--data.num_workers", "2", "--data.augment_on", "workers"]
    cases = [
        ("a data loader worker", workers, 1, signal.SIGKILL),
        ("the second of two processes", pair, 2, signal.SIGSTOP),
        ("the second of two processes", pair, 2, signal.SIGKILL),
        ("the first of two processes", pair, 2, signal.SIGKILL),
    ]
    for case in cases[: 1 if settings.quick else 4]:
        yield _hit(settings.scratch, rng, *case)


def _hit(scratch: Path, rng: random.Random, what: str, args: list[str], processes: int, signum: signal.Signals) -> Row:
    name = f"{what} {signum.name}".replace(" ", "_")
    undisturbed, hit = scratch / f"{name}_undisturbed", scratch / name
    run = fork_server.run(args, undisturbed, processes, before=BLANK)
    assert run.wait(TIMEOUT_S) == 0, run.output
    run = fork_server.run(args, hit, processes)
    while "epoch 1/" not in run.output and run.exit_code is None:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1))
    victim = _children(run.processes[0].pid)[0] if processes == 1 else run.processes[0 if "first" in what else 1].pid
    os.kill(victim, signum)
    start = time.monotonic()
    others = fork_server.Group([process for process in run.processes if process.pid != victim])
    exit_code = others.wait(TIMEOUT_S)
    seconds = time.monotonic() - start
    run.kill()
    run.wait(TIMEOUT_S)
    failures = []
    if exit_code != 1:
        failures.append(f"ended with exit code {exit_code}")
    if "error:" not in run.output:
        failures.append("no error message")
    if "Traceback" in run.output[run.output.rfind("epoch 1/") :]:
        failures.append("a traceback")
    if seconds > 2 * PROCESS_TIMEOUT_S + 5:
        failures.append(f"took {seconds:.0f} s")
    run = fork_server.run([*args, "--ckpt_path", "last"], hit, processes, before=BLANK)
    failures += wait_and_compare(run, undisturbed, hit)
    if not failures:
        remove(undisturbed, hit)
    fault = f"{signum.name}; the others ended after {seconds:.1f} s"
    return Row.of("process_death", what, fault, failures, "an error message; identical after resuming")


def _children(parent: int) -> list[int]:
    """Return the process ids of a process's children."""
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                children.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return sorted(children)
