"""Fill the disk in four situations: there must be an error message, and nothing valid may be lost."""

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

import fork_server
import numpy as np
from comparison import BLANK, SMALL, TIMEOUT_S, run_folder, wait_and_compare
from harness import Row, Settings, WrappedFile
from PIL import Image

from cifar_lit.models import weights

DISK_FULL = os.strerror(errno.ENOSPC)


@dataclass
class Disk:
    """A small file system: a mounted tmpfs or, without the permission to mount, a simulated one.

    Attributes:
        folder: Mount point.
        mounted: Whether it is mounted; else `write` fails in the runs after `megabytes`.
        megabytes: Size.
    """

    folder: Path
    mounted: bool
    megabytes: float

    def run(
        self, args: list[str], folder: Path, env: dict[str, str] | None = None, before: str = ""
    ) -> fork_server.Group:
        """Start a run that writes to this disk."""
        if self.mounted:
            return fork_server.run(args, folder, env=env, before=before or None)
        env = {"FREE_BYTES": str(round(self.megabytes * 2**20)), **(env or {})}
        return fork_server.run(args, folder, env=env, before=before or "full_disk:simulate_full_disk")

    def resize(self, megabytes: float) -> None:
        """Change the size."""
        self.megabytes = megabytes
        if self.mounted:
            _mount(self.folder, f"remount,size={round(megabytes * 1024)}k")


@contextmanager
def disk(folder: Path, mounted: bool, megabytes: float) -> Iterator[Disk]:
    """Create a small file system at `folder`; mounting requires root permissions."""
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


def _can_mount(scratch: Path) -> bool:
    try:
        with disk(scratch / "probe", True, 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class LimitedFile(WrappedFile):
    """A file on a disk with `FREE_BYTES` (an environment variable) left."""

    def write(self, content: Any) -> int:
        if not isinstance(content, str):
            content = memoryview(content).cast("B")
        free = int(os.environ["FREE_BYTES"])
        os.environ["FREE_BYTES"] = str(max(0, free - len(content)))
        self.file.write(content[:free])
        if len(content) > free:
            raise OSError(errno.ENOSPC, DISK_FULL)
        return len(content)

    def writelines(self, contents: Any) -> None:
        for content in contents:
            self.write(content)


def simulate_full_disk() -> None:
    """Limit what this process can write; called in a run before it starts."""
    from cifar_lit.data import decode_files, image_folder
    from cifar_lit.utils import files

    def limited(path: Any, mode: str = "r", **options: Any) -> Any:
        file = open(path, mode, **options)
        return LimitedFile(file) if "w" in mode else file

    for module in (decode_files, image_folder, files):
        mock.patch.object(module, "open", limited, create=True).start()


def fill_before_report() -> None:
    """Leave `LEAVE` bytes on the disk of `FILLER` when the report starts; called in a run before it starts."""
    from cifar_lit.callbacks.report import Report

    original = Report.on_fit_end
    filler, leave = Path(os.environ["FILLER"]), int(os.environ["LEAVE"])

    def on_fit_end(self: Report, *args: Any) -> None:
        if "FREE_BYTES" in os.environ:
            simulate_full_disk()
            os.environ["FREE_BYTES"] = str(leave)
        else:
            filler.write_bytes(bytes(max(0, shutil.disk_usage(filler.parent).free - leave)))
        original(self, *args)

    mock.patch.object(Report, "on_fit_end", on_fit_end).start()


def inject(settings: Settings) -> Iterator[Row]:
    """Fill the disk in each situation."""
    mounted = not settings.simulate_disk and _can_mount(settings.scratch)
    rng = random.Random(settings.seed)
    for case in (_checkpoints, _report, _cache, _logs)[: 1 if settings.quick else 4]:
        what, fault, failures = case(settings.scratch, rng, mounted)
        fault = f"a {'mounted' if mounted else 'simulated'} disk {fault}"
        yield Row.of("full_disk", what, fault, failures, "an error message; identical after freeing space")


Case = tuple[str, str, list[str]]  # what was disturbed, how, the failures


def _report(scratch: Path, rng: random.Random, mounted: bool) -> Case:
    """Fill the disk after the training."""
    folder, log = scratch / "report", scratch / "report_log"
    leave = rng.choice([0, 20, 200])
    filler = folder / "filler"
    env = {"FILLER": str(filler), "LEAVE": str(leave * 1024)}
    args = [*SMALL, "--trainer.default_root_dir", str(folder)]
    with disk(folder, mounted, 400) as small:
        failures = _check_error(small.run(args, log, env, "full_disk:fill_before_report"))
        for name in ("last", "best"):
            weights.read(run_folder(folder) / "checkpoints" / f"{name}.ckpt")  # raises if damaged
        filler.unlink(missing_ok=True)
        small.resize(800)
        resumed = small.run([*args, "--ckpt_path", "last"], log)
        failures += wait_and_compare(resumed, _undisturbed(SMALL, scratch / "report_undisturbed"), folder)
    return "the report", f"with {leave} kB left after the training", failures


def _checkpoints(scratch: Path, rng: random.Random, mounted: bool) -> Case:
    """Leave space for some checkpoints, but not for all."""
    folder, log = scratch / "checkpoints", scratch / "checkpoints_log"
    megabytes = rng.choice([150, 200, 300])
    args = [*SMALL, "--trainer.limit_train_batches", "3", "--checkpoint.every_n_train_steps", "1"]
    disk_args = [*args, "--trainer.default_root_dir", str(folder)]
    with disk(folder, mounted, megabytes) as small:
        run = small.run(disk_args, log)
        failures = _check_error(run) if megabytes < 250 else []  # two checkpoints and the next
        run.wait(TIMEOUT_S)
        last = run_folder(folder) / "checkpoints" / "last.ckpt"
        if last.exists():
            weights.read(last)  # raises if damaged
        if list(folder.rglob("*.part")):
            failures.append("left an incomplete file")
        small.resize(2000 if mounted else 20_000)
        resumed = small.run([*disk_args, "--ckpt_path", "last"], log)
        failures += wait_and_compare(resumed, _undisturbed(args, scratch / "checkpoints_undisturbed"), folder)
    return "checkpoints", f"of {megabytes} MB", failures


def _cache(scratch: Path, rng: random.Random, mounted: bool) -> Case:
    """Decode an image folder into a cache that is larger than the disk."""
    folder, log, images = scratch / "cache", scratch / "cache_log", scratch / "images"
    pixels = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        for name in ("ant", "bee"):
            (images / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(pixels.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                image.save(images / split / name / f"{number}.png")
    kilobytes = rng.randint(8, 360)
    args = [*SMALL, "--data.source", "folder", "--data.root", str(images), "--data.image_size", "32"]
    args += ["--data.cutout_size", "8", "--data.val_size", "20", "--data.cache_dir"]
    with disk(folder, mounted, kilobytes / 1024) as small:
        failures = _check_error(small.run([*args, str(folder / "cache")], log))
        if left := [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]:
            failures.append(f"left {left[0]}")
        small.resize(2000)
        again = small.run([*args, str(folder / "cache")], scratch / "cache_again")
        undisturbed = _undisturbed([*args, str(scratch / "other_cache")], scratch / "cache_undisturbed")
        failures += wait_and_compare(again, undisturbed, scratch / "cache_again")
    return "the cache of decoded images", f"of {kilobytes} kB for 480 kB", failures


def _logs(scratch: Path, rng: random.Random, mounted: bool) -> Case:
    """Leave too little space even for the logs."""
    folder = scratch / "logs"
    kilobytes = rng.choice([4, 8, 16])
    with disk(folder, mounted, kilobytes / 1024) as small:
        run = small.run([*SMALL, "--trainer.default_root_dir", str(folder)], scratch / "logs_log")
        return "the run's first files", f"of {kilobytes} kB", _check_error(run)


def _check_error(run: fork_server.Group) -> list[str]:
    failures = [] if run.wait(TIMEOUT_S) == 1 else [f"ended with exit code {run.exit_code}"]
    if "error:" not in run.output or DISK_FULL not in run.output:
        failures.append("no message that the disk is full")
    return failures + ["a traceback"] * ("Traceback" in run.output)


def _undisturbed(args: list[str], folder: Path) -> Path:
    run = fork_server.run(args, folder, before=BLANK)
    assert run.wait(TIMEOUT_S) == 0, run.output
    return folder
