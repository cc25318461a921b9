"""Kill a run at random instants, go on with it, and compare it with one that nothing happened to."""

import csv
import hashlib
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch
import zygote
from harness import CONFIGS, Row, Settings

TIMING = {"seconds", "train/images_per_second", "train/data_time_fraction"}  # columns that no two runs share

SCHEDULES: dict[str, list[str]] = {
    "constant": [],
    "step": ["--model.schedule.step_size", "1"],
    "onecycle": [],
    "cosine": [],
    "plateau": ["--model.schedule.patience", "0"],
}
LIMIT = 600  # seconds for a run that takes ten
EMA = "{class_path: pytorch_lightning.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}"
SMALL = [
    *("--config", str(CONFIGS / "demo.yaml"), "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1"),
    *("--data.image_size", "8", "--data.cutout_size", "3", "--data.crop_padding", "1", "--data.batch_size", "16"),
    *("--trainer.limit_train_batches", "7", "--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"),
    *("--page.num_cams", "0", "--page.num_road", "0", "--projector.num_images", "0", "--misclassified.k", "2"),
]


def combination(draw: random.Random, number: int) -> dict[str, Any]:
    """Return the number-th combination: all schedules in turn, everything else at random."""
    return {
        "schedule": list(SCHEDULES)[number % len(SCHEDULES)],
        "EMA": draw.random() < 0.3,
        "accumulate": draw.choice([1, 1, 2, 3]),
        "augment_on": draw.choice(["workers", "device"]),
        "workers": draw.choice([0, 2]),
        "save every": draw.choice([0, 1, 2, 3]),
        "validations": draw.choice([1, 1, 2]),
        "processes": draw.choice([1, 1, 1, 2]),
        "flips and groups": number % 2 == 1,
    }


def options(chosen: dict[str, Any]) -> list[str]:
    """Return the command line of a combination."""
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


def fingerprint(run: Path) -> dict[str, str]:
    """Return a hash of each thing that must not differ."""
    found = {}
    for name in ("last", "best"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            found[f"{name}: {part}"] = _hash(checkpoint[part])
    for name in ("metrics.csv", "report/history.csv"):
        with open(run / name, newline="", encoding="utf-8") as file:
            rows = [{k: v for k, v in row.items() if k not in TIMING and v} for row in csv.DictReader(file)]
        found[name] = _hash([row for row in rows if len(row) > 2])  # more than step and epoch
    for name in ("misclassified.csv", "predictions.csv", "metrics.json"):
        found[name] = _hash((run / "report" / name).read_bytes())
    return found


def _hash(thing: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(part.contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key in part:
                digest.update(repr(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for one in part:
                add(one)
        else:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())

    add(thing)
    return digest.hexdigest()


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between the runs of two folders."""
    expected, got = fingerprint(newest(one)), fingerprint(newest(other))
    return [name for name in expected if expected[name] != got[name]]


def newest(folder: Path) -> Path:
    """Return the only run of a folder."""
    (run,) = folder.glob("lightning_logs/*/version_*")
    return run


def measure(settings: Settings) -> list[Row]:
    """Do it with several combinations."""
    draw = random.Random(settings.seed)
    rows = []
    for number in range(settings.runs):
        chosen = combination(draw, number)
        rows.append(resume(settings, draw, chosen, number))
        settings.tell(rows[-1])
    return rows


def resume(settings: Settings, draw: random.Random, chosen: dict[str, Any], number: int) -> Row:
    """Compare a run that is killed a few times with one that is not."""
    whole, killed = settings.scratch / f"{number}_whole", settings.scratch / f"{number}_killed"
    args, processes = options(chosen), chosen["processes"]
    what = ", ".join(f"{k} {v}" for k, v in chosen.items())
    began = time.monotonic()
    run = zygote.run(args, whole, processes)
    while "`Trainer.fit` stopped" not in run.said and run.code is None:
        time.sleep(0.02)
    training = time.monotonic() - began
    assert run.wait(LIMIT) == 0, run.said
    takes = time.monotonic() - began
    kills: list[str] = []
    left = takes if draw.random() < 0.2 else training  # most kills hit the training, some the report
    wrong: list[str] = []
    for _ in range(draw.randint(2, 5)):
        run = zygote.run([*args, *_last(killed)], killed, processes)
        run.wait(after := draw.uniform(0, left))
        if run.code is not None:
            wrong += [f"ended with {run.code}"] if run.code else []
            break
        signum = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        run.kill(signum)
        code = run.wait(LIMIT)
        if code == 0:  # it was over just before
            break
        kills.append(signum.name)
        if code not in (-signum, 128 + signum):  # the first where Python was not there yet, or for SIGKILL
            wrong.append(f"{signum.name} ended with {code}")
        left = max(left - after, training / 4)
    run = zygote.run([*args, *_last(killed)], killed, processes)
    if run.wait(LIMIT) != 0:
        wrong.append(f"ended with {run.code}")
    else:
        wrong += differences(whole, killed)
    settings.done(whole, killed, keep=bool(wrong))
    return Row("resuming", what, ", ".join(kills) or "never hit", "; ".join(wrong) or "the same", not wrong)


def _last(folder: Path) -> list[str]:
    return ["--ckpt_path", "last"] if list(folder.glob("lightning_logs/*/version_*")) else []
