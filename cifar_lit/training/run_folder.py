"""A run's folder, `lightning_logs/RECIPE/version_N`: create, find, lock and remove it, and show it to the callbacks."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import Timeout
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.training import torchrun
from cifar_lit.utils import slurm
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write_text, file_lock, fsync_dir
from cifar_lit.utils.trainers import find_callbacks

PATHS = ("root", "cache_dir")  # options of the data that are paths


def versions(runs: Path) -> list[Path]:
    """Return the `version_N` folders of a recipe, the newest last."""
    found = [path for path in runs.glob("version_*") if re.fullmatch(r"version_\d+", path.name)]
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    """Return the N of `version_N`, or of `config_N.yaml`."""
    return int(path.stem.rpartition("_")[2])


def run_name(folder: Path) -> str:
    """Return recipe and version of a run's folder."""
    return "/".join(folder.resolve().parts[-2:])


def parts(run: Path, name: str) -> list[Path]:
    """Return `NAME` of a run, such as `config.yaml`, and the `NAME_N` of each time that it was resumed, in order."""
    stem, suffix = os.path.splitext(name)
    resumed = [path for path in run.glob(f"{stem}_*{suffix}") if re.fullmatch(rf"{stem}_\d+", path.stem)]
    return [run / name, *sorted(resumed, key=_number)]


def data_path(run: Path, path: str) -> str:
    """Return a path of a run's options, if it exists there from the folder in which the run was started or resumed."""
    for file in reversed(parts(run, "provenance.json")):
        folder = json.loads(file.read_text(encoding="utf-8")).get("folder", "") if file.exists() else ""
        if os.path.exists(there := os.path.join(folder, os.path.expanduser(path))):
            return there
    return path


def newest(logs: Path, recipe: str | None) -> Path | None:
    """Return the newest run of a recipe, or of all if it is None; None if there is no run."""
    recipes = [logs / recipe] if recipe else [path for path in logs.glob("*") if path.is_dir()]
    found = [run for one in recipes for run in versions(one)[-1:] if (run / "config.yaml").is_file()]
    return max(found, key=lambda run: (run / "config.yaml").stat().st_mtime_ns, default=None)


def find(ckpt_path: str, logs: Path, recipe: str | None) -> Path:
    """Return the run that `fit --ckpt_path` names.

    Args:
        ckpt_path: A run's folder, anywhere; or `last`, the newest run.
        logs: The folder `lightning_logs`.
        recipe: The recipe of the newest run; None for any.

    Raises:
        UsageError: There is no such run.
    """
    if ckpt_path == "last":
        if run := newest(logs, recipe):
            return run
        raise UsageError(
            f"--ckpt_path last: there is no run in {logs / (recipe or '')} yet; start without --ckpt_path, or use auto"
        )
    run = Path(os.path.expanduser(ckpt_path))
    if run.is_file():
        raise UsageError(
            f"--ckpt_path {ckpt_path}: to resume a run use its folder, lightning_logs/RECIPE/version_N; to start a new "
            f"run from these weights use --model.weights {ckpt_path}"
        )
    if not (run / "config.yaml").is_file():
        problem = "this folder is not a run, it has no config.yaml" if run.is_dir() else "there is no such folder"
        raise UsageError(f"--ckpt_path {ckpt_path}: {problem}; use lightning_logs/RECIPE/version_N, last or auto")
    return run


def requeued(runs: Path, command: str) -> Path | None:
    """Return the run that this SLURM job started with the same command before it was requeued, else None."""
    if not slurm.was_requeued():
        return None
    for run in reversed(versions(runs)):
        for file in parts(run, "provenance.json"):
            with suppress(OSError, ValueError):  # another job may be writing it
                provenance = json.loads(file.read_text(encoding="utf-8"))
                if (provenance.get("slurm_job"), provenance.get("command")) == (slurm.job(), command):
                    return run
    return None


def create(runs: Path, config: str) -> Path:
    """Create the folder of a new run; simultaneous calls return different ones.

    Args:
        runs: The folder of the recipe's runs.
        config: Content of its `config.yaml`, which a run's folder always contains.

    Raises:
        UsageError: Part of the path is a file.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            f"{error.filename} cannot be created: part of this path is a file; rename that file, or use "
            "--trainer.default_root_dir FOLDER"
        ) from None
    with tempfile.TemporaryDirectory(prefix=".new_", dir=runs) as parent:
        new = Path(parent, "run")
        new.mkdir()
        atomic_write_text(new / "config.yaml", config)
        while True:
            taken = versions(runs)
            run = runs / f"version_{_number(taken[-1]) + 1 if taken else 0}"
            try:
                new.rename(run)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # taken by another process meanwhile
                    raise
            else:
                fsync_dir(runs)
                return run


def remove(run: Path) -> None:
    """Remove the folder of a run that did not start, and its parents if they are empty."""
    shutil.rmtree(run)
    with suppress(OSError):  # not empty
        run.parent.rmdir()
        run.parent.parent.rmdir()


@contextmanager
def lock(run: Path, timeout_s: float = 0) -> Iterator[None]:
    """Lock the folder against training in other processes.

    Args:
        run: The folder.
        timeout_s: How long to wait for another process that has locked it.

    Raises:
        UsageError: Another process has locked it.
    """
    with ExitStack() as stack:
        for seconds in (0, timeout_s):
            try:
                stack.enter_context(file_lock(run / ".lock", seconds))
                break
            except Timeout:
                if seconds == timeout_s:
                    raise UsageError(
                        f"{run} is being trained by another process; wait until it has ended, or start a new run "
                        "without --ckpt_path"
                    ) from None
                rank_zero_info(f"waiting up to {timeout_s:.0f} s for another process that still trains {run}")
        yield


class RunFolder(Callback):
    """Shows a Trainer's callbacks the run's folder, whatever its loggers are; also to each ModelCheckpoint.

    Attributes:
        path: The folder; None until it is known, in all processes but the first until `setup`.
        step: The step from which this process resumes.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Get the folder from the first process; let checkpoints be saved there.

        Raises:
            UsageError: The first process resumes from another step: its machine has other files.
        """
        self.path, step = trainer.strategy.broadcast((self.path, self.step))
        if step != self.step:
            raise UsageError(
                f"{self.path}: this process would resume from step {self.step}, but rank 0 from step {step}; "
                f"{torchrun.SAME_FOLDER}"
            )
        for saver in trainer.checkpoint_callbacks:
            if self.path and isinstance(saver, ModelCheckpoint) and saver.dirpath is None:
                saver.dirpath = str(self.path.absolute() / "checkpoints")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the state of each ModelCheckpoint if its folder was moved; Lightning would forget its best score."""
        for saver in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(saver.state_key)
            if isinstance(saver, ModelCheckpoint) and saver.dirpath and state and state["dirpath"] != saver.dirpath:
                old, new = state["dirpath"], str(saver.dirpath)
                state |= {name: _moved(path, old, new) for name, path in state.items() if name.endswith("model_path")}
                state["best_k_models"] = {_moved(path, old, new): k for path, k in state["best_k_models"].items()}
                state["dirpath"] = new


def _moved(path: str, old: str, new: str) -> str:
    """Return where a file of the folder `old` is in the folder `new`; the same path if it is not there."""
    moved = os.path.join(new, os.path.relpath(path, old)) if path and old else path
    return moved if os.path.exists(moved) else path


def folder_of(trainer: Trainer) -> Path:
    """Return the folder of a Trainer's run; without a RunFolder, that of its first logger.

    Every process must call this.
    """
    folder = next((one.path for one in find_callbacks(trainer, RunFolder)), None)
    return folder or Path(trainer.log_dir or trainer.default_root_dir)
