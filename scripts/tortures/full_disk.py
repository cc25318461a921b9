"""Fill the disk while training, saving, decoding and reporting: nothing good may be lost, and there is a word."""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zygote
from harness import Row, Settings
from PIL import Image
from resuming import LIMIT, SMALL, fingerprint, newest

from cifar_lit import checkpoints

FULL = os.strerror(errno.ENOSPC)


@contextmanager
def disk(folder: Path, megabytes: float) -> Iterator[Callable[[float], None]]:
    """Mount a small file system at a folder, and give what changes its size; needs the right to mount."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, f"size={round(megabytes * 1024)}k", "tmpfs", str(folder)], check=True, capture_output=True)

    def resize(to: float) -> None:
        subprocess.run([*mount, f"remount,size={round(to * 1024)}k", str(folder)], check=True, capture_output=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount(scratch: Path) -> bool:
    """Tell whether a small file system can be mounted here."""
    try:
        with disk(scratch / "probe", 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def used(folder: Path) -> float:
    """Return what a folder's file system holds, in megabytes."""
    return shutil.disk_usage(folder).used / 2**20


def measure(settings: Settings) -> list[Row]:
    """Fill it at each of four places."""
    if not can_mount(settings.scratch):
        return [Row("full_disk", "all of it", "no right to mount a small file system here", "not done", True)]
    draw = random.Random(settings.seed)
    rows = []
    for part in (_reporting, _saving, _decoding, _logging)[: 2 if settings.quick else 4]:
        rows.append(part(settings, draw))
        settings.tell(rows[-1])
    return rows


def fill_later() -> None:
    """Let the disk be filled when the training of this process is over, up to `LEAVE` bytes, with the file `FILLER`."""
    from cifar_lit import report

    make = report.WholeReport.on_fit_end
    filler, leave = Path(os.environ["FILLER"]), int(os.environ["LEAVE"])

    def full(self: report.WholeReport, *args: object) -> None:
        filler.write_bytes(bytes(max(0, shutil.disk_usage(filler.parent).free - leave)))
        make(self, *args)  # type: ignore[arg-type]

    report.WholeReport.on_fit_end = full  # type: ignore[method-assign,assignment]


def _verdict(what: str, how: str, wrong: list[str]) -> Row:
    return Row("full_disk", what, how, "; ".join(wrong) or "a word, and the same after making room", not wrong)


def _said_so(run: zygote.Group) -> list[str]:
    wrong = [] if run.wait(LIMIT) == 1 else [f"ended with {run.code}"]
    if "error:" not in run.said or FULL not in run.said:
        wrong.append("did not say that the disk is full")
    return wrong + ["a traceback"] * ("Traceback" in run.said)


def _same(args: list[str], whole: Path, folder: Path) -> list[str]:
    """Compare with an undisturbed run."""
    run = zygote.run(args, whole)
    assert run.wait(LIMIT) == 0, run.said
    expected, got = fingerprint(newest(whole)), fingerprint(newest(folder))
    return [name for name in expected if expected[name] != got[name]]


def _logging(settings: Settings, draw: random.Random) -> Row:
    """So small that not even the logs fit."""
    kilobytes = draw.choice([4, 8, 16])
    small = settings.scratch / "logging"
    with disk(small, kilobytes / 1024):
        run = zygote.run([*SMALL, "--trainer.default_root_dir", str(small)], settings.scratch / "logging_log")
        return _verdict("the run's first files", f"a disk of {kilobytes} kB", _said_so(run))


def _saving(settings: Settings, draw: random.Random) -> Row:
    """Room for some checkpoints, not for the next; then there is."""
    small = settings.scratch / "saving"
    args = [*SMALL, "--checkpoint.every_n_train_steps", "1"]
    room = draw.choice([150, 200, 300])
    with disk(small, room) as resize:
        run = zygote.run([*args, "--trainer.default_root_dir", str(small)], settings.scratch / "saving_log")
        wrong = _said_so(run) if room < 250 else []  # two checkpoints and the next one
        run.wait(LIMIT)
        last = newest(small) / "checkpoints" / "last.ckpt"
        if last.exists():
            checkpoints.read(last)  # raises where it is damaged
        if list(small.rglob("*.part")):
            wrong.append("left a part behind")
        resize(2000)
        again = [*args, "--trainer.default_root_dir", str(small), "--ckpt_path", "last"]
        run = zygote.run(again, settings.scratch / "saving_again")
        if run.wait(LIMIT) != 0:
            wrong.append(f"going on ended with {run.code}")
        else:
            wrong += _same(args, settings.scratch / "saving_whole", small)
    return _verdict("checkpoints", f"a disk of {room} MB", wrong)


def _decoding(settings: Settings, draw: random.Random) -> Row:
    """Decode a folder of pictures into a cache that does not fit."""
    small, pictures = settings.scratch / "decoding", settings.scratch / "pictures"
    random_pixels = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        for name in ("ant", "bee"):
            (pictures / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random_pixels.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(pictures / split / name / f"{number}.png")
    kilobytes = draw.randint(8, 360)
    args = [*SMALL, "--data.source", "folder", "--data.root", str(pictures), "--data.image_size", "32"]
    args += ["--data.cutout_size", "8", "--data.val_size", "20", "--data.cache_dir", str(small / "cache")]
    with disk(small, kilobytes / 1024) as resize:
        folder = settings.scratch / "decoding_log"
        wrong = _said_so(zygote.run(args, folder))
        left = [path for path in small.rglob("*") if path.is_file() and path.suffix != ".lock"]
        if left:
            wrong.append(f"left {left[0].name} behind")
        resize(100)
        folder = settings.scratch / "decoding_again"
        run = zygote.run(args, folder)
        if run.wait(LIMIT) != 0:
            wrong.append(f"starting again ended with {run.code}")
        else:
            args[args.index("--data.cache_dir") + 1] = str(settings.scratch / "another_cache")
            wrong += _same(args, settings.scratch / "decoding_whole", folder)
    return _verdict("the cache of decoded pictures", f"a disk of {kilobytes} kB for 480 kB", wrong)


def _reporting(settings: Settings, draw: random.Random) -> Row:
    """Fill the disk when the training is over."""
    small = settings.scratch / "reporting"
    leave = draw.choice([0, 20, 200])
    filler = small / "filler"
    env = {"FILLER": str(filler), "LEAVE": str(leave * 1024)}
    with disk(small, 400) as resize:
        args = [*SMALL, "--trainer.default_root_dir", str(small)]
        wrong = _said_so(zygote.run(args, settings.scratch / "reporting_log", env=env, before="full_disk:fill_later"))
        for name in ("last", "best"):
            checkpoints.read(newest(small) / "checkpoints" / f"{name}.ckpt")
        filler.unlink(missing_ok=True)
        resize(800)
        run = zygote.run([*args, "--ckpt_path", "last"], settings.scratch / "reporting_again")
        if run.wait(LIMIT) != 0:
            wrong.append(f"going on ended with {run.code}")
        else:
            wrong += _same(SMALL, settings.scratch / "reporting_whole", small)
    return _verdict("the report", f"{leave} kB left after the training", wrong)
