"""Fill the disk while training, saving, decoding and reporting: nothing good may be lost, and there is a word."""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import zygote
from harness import Row, Settings, WrappedFile
from PIL import Image
from resuming import LIMIT, SMALL, differences, newest

from cifar_lit.training import checkpoint_files

FULL = os.strerror(errno.ENOSPC)


@dataclass
class Disk:
    """A small file system, mounted, or made up where that is not allowed: writing then fails after so many bytes.

    Attributes:
        folder: Where it is.
        mounted: Whether it is a real one.
        megabytes: Its size.
    """

    folder: Path
    mounted: bool
    megabytes: float

    def run(self, args: list[str], where: Path, env: dict[str, str] | None = None, before: str = "") -> zygote.Group:
        """Begin a run that writes to it."""
        if self.mounted:
            return zygote.run(args, where, env=env, before=before or None)
        room = {"ROOM": str(round(self.megabytes * 2**20)), **(env or {})}
        return zygote.run(args, where, env=room, before=before or "full_disk:made_up")

    def resize(self, megabytes: float) -> None:
        """Make room."""
        self.megabytes = megabytes
        if self.mounted:
            _mount(self.folder, f"remount,size={round(megabytes * 1024)}k")


@contextmanager
def disk(folder: Path, mounted: bool, megabytes: float) -> Iterator[Disk]:
    """Make a small file system at a folder; to mount one needs the right to."""
    folder.mkdir(parents=True)
    if mounted:
        _mount(folder, f"size={round(megabytes * 1024)}k")
    try:
        yield Disk(folder, mounted, megabytes)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)


def can_mount(scratch: Path) -> bool:
    """Tell whether a small file system can be mounted here."""
    try:
        with disk(scratch / "probe", True, 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class LimitedFile(WrappedFile):
    """A file on a disk that gets full: `ROOM` in the environment is what is left of it, in bytes."""

    def write(self, content: Any) -> Any:
        room = int(os.environ["ROOM"])
        os.environ["ROOM"] = str(max(0, room - len(content)))
        self.file.write(content[:room])
        if len(content) > room:
            raise OSError(errno.ENOSPC, FULL)
        return len(content)


def made_up() -> None:
    """Let the files that this process writes lie on such a disk."""
    from cifar_lit.data.datamodule import decode
    from cifar_lit.utils import files

    def limited(path: Any, mode: str = "r", **options: Any) -> Any:
        file = open(path, mode, **options)
        return LimitedFile(file) if "w" in mode else file

    for module in (decode, files):
        mock.patch.object(module, "open", limited, create=True).start()


def measure(settings: Settings) -> list[Row]:
    """Fill it at each of four places."""
    mounted = not settings.made_up and can_mount(settings.scratch)
    draw = random.Random(settings.seed)
    rows = []
    for part in (_reporting, _saving, _decoding, _logging)[: 2 if settings.quick else 4]:
        rows.append(part(settings, draw, mounted))
        settings.tell(rows[-1])
    return rows


def fill_later() -> None:
    """Let the disk be filled when the training of this process is over, up to `LEAVE` bytes, with the file `FILLER`."""
    from cifar_lit.report import writer as report

    make = report.CombinedReport.on_fit_end
    filler, leave = Path(os.environ["FILLER"]), int(os.environ["LEAVE"])

    def full(self: report.CombinedReport, *args: Any) -> None:
        if "ROOM" in os.environ:
            made_up()
            os.environ["ROOM"] = str(leave)
        else:
            filler.write_bytes(bytes(max(0, shutil.disk_usage(filler.parent).free - leave)))
        make(self, *args)

    mock.patch.object(report.CombinedReport, "on_fit_end", full).start()


def _verdict(full: Disk, what: str, how: str, wrong: list[str]) -> Row:
    how = f"a {'mounted' if full.mounted else 'made-up'} disk {how}"
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
    return differences(whole, folder)


def _logging(settings: Settings, draw: random.Random, mounted: bool) -> Row:
    """So small that not even the logs fit."""
    kilobytes = draw.choice([4, 8, 16])
    small = settings.scratch / "logging"
    with disk(small, mounted, kilobytes / 1024) as full:
        run = full.run([*SMALL, "--trainer.default_root_dir", str(small)], settings.scratch / "logging_log")
        return _verdict(full, "the run's first files", f"of {kilobytes} kB", _said_so(run))


def _saving(settings: Settings, draw: random.Random, mounted: bool) -> Row:
    """Room for some checkpoints, not for the next; then there is."""
    small = settings.scratch / "saving"
    args = [*SMALL, "--checkpoint.every_n_train_steps", "1"]
    room = draw.choice([150, 200, 300])
    with disk(small, mounted, room) as full:
        run = full.run([*args, "--trainer.default_root_dir", str(small)], settings.scratch / "saving_log")
        wrong = _said_so(run) if room < 250 else []  # two checkpoints and the next one
        run.wait(LIMIT)
        last = newest(small) / "checkpoints" / "last.ckpt"
        if last.exists():
            checkpoint_files.read(last)  # raises where it is damaged
        if list(small.rglob("*.part")):
            wrong.append("left a part behind")
        full.resize(20_000 if not mounted else 2000)
        again = [*args, "--trainer.default_root_dir", str(small), "--ckpt_path", "last"]
        run = full.run(again, settings.scratch / "saving_again")
        if run.wait(LIMIT) != 0:
            wrong.append(f"going on ended with {run.code}")
        else:
            wrong += _same(args, settings.scratch / "saving_whole", small)
    return _verdict(full, "checkpoints", f"of {room} MB", wrong)


def _decoding(settings: Settings, draw: random.Random, mounted: bool) -> Row:
    """Decode a folder of images into a cache that does not fit."""
    small, images = settings.scratch / "decoding", settings.scratch / "images"
    random_pixels = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        for name in ("ant", "bee"):
            (images / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random_pixels.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(images / split / name / f"{number}.png")
    kilobytes = draw.randint(8, 360)
    args = [*SMALL, "--data.source", "folder", "--data.root", str(images), "--data.image_size", "32"]
    args += ["--data.cutout_size", "8", "--data.val_size", "20", "--data.cache_dir", str(small / "cache")]
    with disk(small, mounted, kilobytes / 1024) as full:
        folder = settings.scratch / "decoding_log"
        wrong = _said_so(full.run(args, folder))
        left = [path for path in small.rglob("*") if path.is_file() and path.suffix != ".lock"]
        if left:
            wrong.append(f"left {left[0].name} behind")
        full.resize(2000)
        folder = settings.scratch / "decoding_again"
        run = full.run(args, folder)
        if run.wait(LIMIT) != 0:
            wrong.append(f"starting again ended with {run.code}")
        else:
            args[args.index("--data.cache_dir") + 1] = str(settings.scratch / "another_cache")
            wrong += _same(args, settings.scratch / "decoding_whole", folder)
    return _verdict(full, "the cache of decoded images", f"of {kilobytes} kB for 480 kB", wrong)


def _reporting(settings: Settings, draw: random.Random, mounted: bool) -> Row:
    """Fill the disk when the training is over."""
    small = settings.scratch / "reporting"
    leave = draw.choice([0, 20, 200])
    filler = small / "filler"
    env = {"FILLER": str(filler), "LEAVE": str(leave * 1024)}
    with disk(small, mounted, 400) as full:
        args = [*SMALL, "--trainer.default_root_dir", str(small)]
        wrong = _said_so(full.run(args, settings.scratch / "reporting_log", env, "full_disk:fill_later"))
        for name in ("last", "best"):
            checkpoint_files.read(newest(small) / "checkpoints" / f"{name}.ckpt")
        filler.unlink(missing_ok=True)
        full.resize(800)
        run = full.run([*args, "--ckpt_path", "last"], settings.scratch / "reporting_again")
        if run.wait(LIMIT) != 0:
            wrong.append(f"going on ended with {run.code}")
        else:
            wrong += _same(SMALL, settings.scratch / "reporting_whole", small)
    return _verdict(full, "the report", f"with {leave} kB left after the training", wrong)
