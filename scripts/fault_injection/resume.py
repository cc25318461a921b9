"""Kill a run at random instants, resume it, and compare it with an undisturbed one."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fork_server
from comparison import BLANK, SMALL, TIMEOUT_S, wait_and_compare
from harness import Row, Settings, remove

SCHEDULES: dict[str, list[str]] = {
    "constant": [],
    "step": ["--model.schedule.step_size", "1"],
    "onecycle": [],
    "cosine": [],
    "plateau": ["--model.schedule.patience", "0"],
}
EMA = "{class_path: pytorch_lightning.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}"


def inject(settings: Settings) -> Iterator[Row]:
    """Test several combinations of options."""
    rng = random.Random(settings.seed)
    for number in range(settings.runs):
        yield _kill_and_resume(settings.scratch, rng, _combination(rng, number), number)


def _combination(rng: random.Random, number: int) -> dict[str, Any]:
    """Return the number-th combination: the schedules in turn, everything else at random."""
    return {
        "schedule": list(SCHEDULES)[number % len(SCHEDULES)],
        "EMA": rng.random() < 0.3,
        "accumulate": rng.choice([1, 1, 2, 3]),
        "augment_on": rng.choice(["workers", "device"]),
        "workers": rng.choice([0, 2]),
        "save every": rng.choice([0, 1, 2, 3]),
        "validations": rng.choice([1, 1, 2]),
        "processes": rng.choice([1, 1, 1, 2]),
        "flips and groups": number % 2 == 1,
    }


def _arguments(chosen: dict[str, Any]) -> list[str]:
    """Return the command-line arguments of a combination."""
    args = [*SMALL, "--model.schedule.name", chosen["schedule"], *SCHEDULES[chosen["schedule"]]]
    args += ["--trainer.accumulate_grad_batches", str(chosen["accumulate"]), "--data.augment_on", chosen["augment_on"]]
    args += ["--data.num_workers", str(chosen["workers"])]
    args += ["--checkpoint.every_n_train_steps", str(chosen["save every"])]
    if chosen["validations"] > 1:
        args += ["--trainer.val_check_interval", "3"]
    if chosen["flips and groups"]:
        args += ["--data.flip", "0.5", "--data.flip_mode", "alternate"]
        args += ["--model.norm_weight_decay", "0", "--model.norm_bias_lr_mult", "4"]
    if chosen["EMA"]:
        args += [f"--trainer.callbacks+={EMA}"]
    return args


def _kill_and_resume(scratch: Path, rng: random.Random, chosen: dict[str, Any], number: int) -> Row:
    """Compare a run that is killed a few times with an undisturbed one."""
    undisturbed, killed = scratch / f"{number}_undisturbed", scratch / f"{number}_killed"
    args, processes = _arguments(chosen), chosen["processes"]
    start = time.monotonic()
    run = fork_server.run(args, undisturbed, processes, before=BLANK)
    while "`Trainer.fit` stopped" not in run.output and run.exit_code is None:
        time.sleep(0.02)
    training_s = time.monotonic() - start
    assert run.wait(TIMEOUT_S) == 0, run.output
    total_s = time.monotonic() - start
    remaining_s = total_s if rng.random() < 0.2 else training_s  # most kills hit the training, some the report
    kills: list[str] = []
    failures: list[str] = []
    for _ in range(rng.randint(2, 5)):
        run = fork_server.run([*args, *_resume_option(killed)], killed, processes, before=BLANK)
        run.wait(after := rng.uniform(0, remaining_s))
        if run.exit_code is not None:
            failures += [f"ended with exit code {run.exit_code}"] if run.exit_code else []
            break
        signum = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        run.kill(signum)
        exit_code = run.wait(TIMEOUT_S)
        if exit_code == 0:  # it finished just before
            break
        kills.append(signum.name)
        if exit_code not in (-signum, 128 + signum):  # -signum: SIGKILL, or the handler was not installed yet
            failures.append(f"{signum.name} ended with exit code {exit_code}")
        remaining_s = max(remaining_s - after, training_s / 4)
    run = fork_server.run([*args, *_resume_option(killed)], killed, processes, before=BLANK)
    failures += wait_and_compare(run, undisturbed, killed)
    if not failures:
        remove(undisturbed, killed)
    what = ", ".join(f"{k} {v}" for k, v in chosen.items())
    return Row.of("resume", what, ", ".join(kills) or "finished before the first kill", failures)


def _resume_option(folder: Path) -> list[str]:
    return ["--ckpt_path", "last"] if list(folder.glob("lightning_logs/*/version_*")) else []
