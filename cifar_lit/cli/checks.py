"""Checks of the options before anything is loaded. Most ranges are checked where an option is used."""

import math
import os
import re
import sys
import time
from contextlib import suppress
from typing import Any

import torch
from jsonargparse import Namespace
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.sources import SOURCES
from cifar_lit.models.pretrained import IMAGENET
from cifar_lit.models.resnet import Norm, Stem, smallest_strided
from cifar_lit.training import distributed
from cifar_lit.training.lr_finder import MIN_STEPS
from cifar_lit.utils import hardware, slurm
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.output import first_process
from cifar_lit.utils.signals import Interrupted
from cifar_lit.utils.text import counted

LARGEST_SEED = 2**32 - 1  # NumPy's
AT_LEAST_1 = ("accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps")


def check(config: Namespace) -> None:
    """Refuse options that cannot work.

    Raises:
        UsageError: With the option's name and what to use instead.
    """
    for name, value in vars(config.as_flat()).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name} must be a finite number, got {value}")
    check_range("seed_everything", int(config.seed_everything or 0), 0, LARGEST_SEED)
    if config.lr_find:
        check_range("lr_find (0 turns it off)", config.lr_find, MIN_STEPS)
    check_range("process_timeout", config.process_timeout, 1, 1_000_000)
    check_optimizer(config.model.optimizer)
    check_finetuning(config.model, config.trainer.max_epochs)
    check_trainer(config.trainer)
    for option, value in (
        ("data.val_size", config.data.val_size),
        ("trainer.limit_val_batches", config.trainer.limit_val_batches),
    ):
        if value == 0 and (users := validation_users(config)):
            raise UsageError(f"{option}=0 turns off validation, which is needed by {'; '.join(users)}")
    growing, epochs = config.data.progressive_epochs, config.trainer.max_epochs or -1
    if 0 < epochs <= growing:
        raise UsageError(
            f"data.progressive_epochs={growing} must be below trainer.max_epochs={epochs}: the last epochs train on "
            "images of full size"
        )
    source, root = config.data.source, config.data.root
    if source in SOURCES and not SOURCES[source].uses_root and root not in ("data", ""):
        raise UsageError(
            f"data.root={root} has no effect with data.source={source}; remove it, or use data.source=folder"
        )


def check_range(name: str, value: float | None, low: int, high: int | None = None) -> None:
    """Refuse a number outside of `low` to `high`, both included; None is the default and passes."""
    if value is not None and not low <= value <= (math.inf if high is None else high):
        limits = f"{low} or more" if high is None else f"between {low} and {high}"
        raise UsageError(f"{name} must be {limits}, got {value}")


def check_optimizer(optimizer: Any) -> None:
    """Refuse an optimizer that is not a class of torch.optim, before it is called."""
    path = optimizer.class_path if isinstance(optimizer, Namespace) else str(optimizer)
    name = path.removeprefix("torch.optim.")
    if path == name or not hasattr(torch.optim, name) or name in ("LBFGS", "SparseAdam"):
        raise UsageError(
            f"model.optimizer={name} cannot train this network; use a class of torch.optim, such as SGD or AdamW"
        )


def check_finetuning(model: Namespace, max_epochs: int | None) -> None:
    """Refuse to start from weights that cannot fit, or to freeze layers that would never be trained."""
    for name, value in (("stem", "imagenet"), ("norm", "batch")):
        if model.weights == IMAGENET and model[name] != value:
            raise UsageError(f"model.weights={IMAGENET} needs model.{name}={value}, got model.{name}={model[name]}")
    check_range("model.freeze_epochs", model.freeze_epochs, 0)
    if model.freeze_epochs and not model.weights:
        raise UsageError(
            f"model.freeze_epochs={model.freeze_epochs} would freeze random weights; set model.weights, such as "
            f"--model.weights {IMAGENET}, or model.freeze_epochs=0"
        )
    if 0 < (max_epochs or 0) <= model.freeze_epochs:
        raise UsageError(
            f"model.freeze_epochs={model.freeze_epochs} must be less than trainer.max_epochs={max_epochs}: the other "
            "layers would never be trained"
        )


def check_trainer(trainer: Namespace) -> None:
    """Refuse options with which Lightning trains nothing, or fails with an unclear error."""
    if trainer.overfit_batches:
        raise UsageError(
            "trainer.overfit_batches replaces this project's sampler; to train on a few images only, hold out the "
            "others with data.val_size"
        )
    if trainer.barebones:
        raise UsageError("trainer.barebones turns off checkpoints and the report; remove it")
    if re.search("fsdp|deepspeed|model_?parallel|spawn|fork|notebook", str(trainer.strategy).lower()):
        raise UsageError(
            f"trainer.strategy={trainer.strategy} shards the network or forks this process, which the report does not "
            "support; use ddp"
        )
    for name in ("limit_train_batches", "limit_test_batches"):
        if trainer[name] == 0:
            raise UsageError(f"trainer.{name}=0 leaves nothing to report; use 1 or more, or a fraction above 0.0")
    for name in ("max_epochs", "max_steps"):
        if trainer[name] is not None and trainer[name] < 1 and trainer[name] != -1:
            raise UsageError(f"trainer.{name} must be 1 or more (or -1 for no limit), got {trainer[name]}")
    for name in AT_LEAST_1:
        check_range(f"trainer.{name}", trainer[name], 1)
    check_range("trainer.gradient_clip_val", trainer.gradient_clip_val, 0)
    most = max(8, hardware.available_cores(), torch.cuda.device_count())
    if str(trainer.devices).isdigit() and int(trainer.devices) > most:
        raise UsageError(
            f"trainer.devices={trainer.devices} starts one process per device; use at most {most} on this machine"
        )
    if trainer.sync_batchnorm and (str(trainer.accelerator) == "cpu" or not torch.cuda.is_available()):
        raise UsageError(
            "trainer.sync_batchnorm works on GPUs only; model.norm=layer does not depend on other processes"
        )
    if trainer.val_check_interval == 0:
        raise UsageError(
            "trainer.val_check_interval=0 would never validate; use a fraction of an epoch above 0.0 or a number of "
            "steps; data.val_size=0 trains without validation"
        )


def check_launched(trainer: Trainer) -> None:
    """Refuse a Trainer that does not use exactly the processes that torchrun or srun has started.

    Without it, each process that is not used would train on its own, or one that is missing would be waited for.
    """
    found = distributed.launched()
    if not found or distributed.is_child():
        return
    launcher, processes, machines = found
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or isinstance(environment, LightningEnvironment):  # the launcher's processes are not used
        fits = processes == 1
    else:
        fits = (processes, machines) == (trainer.num_devices * trainer.num_nodes, trainer.num_nodes)
    if not fits:
        if not first_process():  # the first one prints the message
            with suppress(Interrupted):
                time.sleep(10)
            sys.exit(2)
        used, (devices, rest) = trainer.num_devices * trainer.num_nodes, divmod(processes, machines)
        remedy = f"use --trainer.devices {devices} --trainer.num_nodes {machines}, or start {used}"
        if rest:
            remedy = "start the same number on each machine, which is then trainer.devices"
        raise UsageError(
            f"{launcher} has started {counted(processes, 'process')} on "
            f"{counted(machines, 'machine')}, but trainer.devices={trainer.num_devices} and "
            f"trainer.num_nodes={trainer.num_nodes} are {used}: {remedy}"
        )


def check_batch(data: ImageDataModule, processes: int, norm: Norm, stem: Stem) -> None:
    """Refuse training batches of one image if BatchNorm would get a single value for each channel.

    Warns if an epoch is a single step, as the recipes' batch sizes make it for a few hundred images.
    """
    images = min(data.batch_size, math.ceil(len(data.train_dataset) / processes))
    if images == 1 and norm == "batch" and smallest_strided(data.image_size, stem) <= 2:  # halved by layer4 to 1 px
        raise UsageError(
            f"data.batch_size={data.batch_size}, {len(data.train_dataset)} training images, {processes} processes: "
            "BatchNorm cannot train on one image whose feature maps are 1x1; use at least 2 training images per "
            "process and --data.batch_size 2 or more, or --model.norm layer"
        )
    if data.batch_size * processes >= len(data.train_dataset):
        rank_zero_warn(
            f"each epoch is a single step: data.batch_size={data.batch_size} is not smaller than the number of "
            f"training images, {len(data.train_dataset)}; use a smaller one, such as --data.batch_size 32"
        )


def check_srun(processes: int, nodes: int) -> None:
    """Refuse to wait for processes of other SLURM tasks that srun has not started.

    Args:
        processes: Of the training.
        nodes: Machines of the training.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if slurm.job() and not slurm.in_step() and processes > 1 and (tasks > 1 or nodes > 1):
        raise UsageError(
            f"{processes} processes are required, but only one was started: put srun before the command in the "
            "job script"
        )


def validation_users(config: Namespace) -> list[str]:
    """Return what needs validation metrics: the plateau schedule, and callbacks that monitor them."""
    users = ["model.schedule.name=plateau"] if config.model.schedule.name == "plateau" else []
    for callback in as_list(config.trainer.callbacks):
        monitor = str((callback.get("init_args") or {}).get("monitor", ""))
        if monitor.startswith("val/"):
            users.append(f"trainer.callbacks: {callback.class_path.rsplit('.')[-1]} with monitor={monitor}")
    return users


def as_list(value: Any) -> list[Any]:
    """Return an option that may be a list, a single value or None as a list."""
    return value if isinstance(value, list) else [value] if value else []
