"""`fit --ckpt_path`: the run to resume, and which options may differ from its own."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.schedules import SCHEDULES
from cifar_lit.report.provenance import Provenance
from cifar_lit.training import run_folder
from cifar_lit.training.run import Start
from cifar_lit.utils import commands, environment
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.text import counted

HELP = (
    "Resume a run in its folder, with its own options: the run's folder, or `last`, the newest run (of the recipe, if "
    "--config is given). No other option is needed; one that would change the training is refused. `auto` resumes the "
    "newest run of the recipe if there is one, else it starts a new one: for scripts that repeat a command until it "
    "succeeds."
)
# Options that change the training; of the groups data and model all but those that follow.
TRAINING = {"seed_everything", "lr_find", "trainer.callbacks", "trainer.precision", "trainer.accumulate_grad_batches"}
TRAINING |= {"trainer.gradient_clip_val", "trainer.gradient_clip_algorithm", "trainer.sync_batchnorm"}
TRAINING |= {"trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.val_check_interval"}
TRAINING |= {"trainer.check_val_every_n_epoch"}
NOT_TRAINING = {"data.root", "data.mirrors", "data.cache_dir", "data.num_workers", "data.train_eval_size"}
NOT_TRAINING |= {"data.process_timeout", "data.batch_size", "model.compile"}  # the batch size: see check_processes
LENGTH = {"trainer.max_epochs", "trainer.max_steps"}  # for schedules that are planned for it
LISTS = ("trainer.callbacks", "trainer.logger", "trainer.plugins")  # which `+=` extends
EXACT = ("processes", "precision", "threads", "cpu", "gpus", "torch")  # equal, or the result differs in rounding


def merge(run: Path, saved: Namespace, given: Namespace, merged: Namespace) -> Namespace:
    """Return the options of a resumed run.

    Args:
        run: Its folder.
        saved: Its own options.
        given: The recipe and the options of the command line alone.
        merged: The same on top of its own options.

    Raises:
        UsageError: An option that changes the training differs.
    """
    for name in LISTS:  # an option that was extended by `+=` at the start, and is given again
        if given[name] == saved[name]:
            merged[name] = saved[name]
    before, after = vars(saved.as_flat()), vars(merged.as_flat())
    differ = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    refused = [name for name in differ if _changes_training(name, saved.model.schedule.name)]
    if refused:
        changes = ", ".join(f"{name}={after.get(name)} (the run has {before.get(name)})" for name in refused[:5])
        changes += ", ..." * (len(refused) > 5)
        if not LENGTH.isdisjoint(refused):
            changes += f"; the schedule {saved.model.schedule.name} depends on the total number of steps"
        raise UsageError(
            f"--ckpt_path {run}: {changes}: a run is resumed with its own options, which "
            "are in its config.yaml; remove these options (and --config), or start a new run without --ckpt_path, "
            f"from its weights with --model.weights {run}"
        )
    return merged


def find_data(run: Path, saved: Namespace, merged: Namespace) -> None:
    """Replace the paths that are the run's own by where they are now; after the checks, which know a default by name.

    Args:
        run: Its folder.
        saved: Its own options.
        merged: From `merge`; changed in place.
    """
    for name in run_folder.PATHS:
        if merged.data[name] == saved.data[name]:
            merged.data[name] = run_folder.data_path(run, saved.data[name])


def _changes_training(name: str, schedule: Any) -> bool:
    if name in LENGTH:
        return SCHEDULES[schedule].interval == "step"
    return name in TRAINING or (name.startswith(("data.", "model.")) and name not in NOT_TRAINING)


def check_checkpoint(start: Start) -> None:
    """Refuse to train a finished run again if only its last checkpoint is missing."""
    if start.run and not start.file and (start.run / "report" / "metrics.json").exists():
        raise UsageError(
            f"--ckpt_path {start.run}: its checkpoints/last.ckpt is missing, so it cannot be resumed; "
            f"{commands.repeatable('evaluate', str(start.run))} creates its report again"
        )


def check_same_images(start: Start, data: ImageDataModule) -> None:
    """Refuse to resume a run with other training images."""
    fingerprint = data.splits.train.fingerprint
    if start.checkpoint and start.checkpoint["ImageDataModule"]["train"] != fingerprint:
        raise UsageError(
            f"--ckpt_path {start.run}: data.root={data.root} contains other images than those that it was trained on; "
            "use the same images, or start a new run from its weights with --model.weights"
        )


def check_processes(start: Start, data: ImageDataModule, trainer: Trainer) -> None:
    """Refuse another number of images per step; print what makes the result differ from an uninterrupted run."""
    assert start.run is not None
    if not start.checkpoint:
        return
    provenance = Provenance.load(start.run)
    first, batch_size = provenance.parts[0], provenance.options["data"]["batch_size"]
    finished = 0 < (trainer.max_epochs or 0) <= start.epochs or 0 < trainer.max_steps <= start.step
    if finished and data.batch_size == batch_size:  # only the report is created, by any number of processes
        return
    before, now = batch_size * first["processes"], data.batch_size * trainer.world_size
    if before != now:
        raise UsageError(
            f"--ckpt_path {start.run}: data.batch_size={data.batch_size} and "
            f"{counted(trainer.world_size, 'process')} are {now} images per step, but the run has {before} (processes: "
            f"{first['processes']}); use --data.batch_size {before // trainer.world_size}, or another trainer.devices"
        )
    gpus = trainer.device_ids if trainer.strategy.root_device.type == "cuda" else []
    current = {**environment.describe(gpus), "precision": trainer.precision, "processes": trainer.world_size}
    changes = [f"{name} {current[name]} instead of {first[name]}" for name in EXACT if current[name] != first.get(name)]
    if changes:
        rank_zero_info(f"not bit-for-bit identical to an uninterrupted run: {', '.join(changes)}")
