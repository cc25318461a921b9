"""Options that cannot work, found before anything is loaded; most ranges are checked where an option is used."""

import math
import re
from typing import Any

import torch
from jsonargparse import Namespace

from cifar_lit.utils import hardware
from cifar_lit.utils.errors import UsageError

LARGEST_SEED = 2**32 - 1  # NumPy's
AT_LEAST_1 = ("max_epochs", "max_steps", "accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps")


def check(config: Namespace) -> None:
    """Refuse what cannot work.

    Raises:
        UsageError: With the option's name and what to give instead.
    """
    for name, value in vars(config.as_flat()).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name} must be a finite number, got {value}")
    check_optimizer(config.model.optimizer)
    if config.lr_find < 0:
        raise UsageError(f"lr_find must be 0 or more, got {config.lr_find}")
    if not 1 <= config.process_timeout <= 1_000_000:
        raise UsageError(f"process_timeout must be 1 to 1,000,000 seconds, got {config.process_timeout}")
    check_trainer(config.trainer)
    if config.data.val_size == 0:
        check_validation(config, "data.val_size")
    elif config.trainer.limit_val_batches == 0:
        check_validation(config, "trainer.limit_val_batches")
    if config.data.source == "digits" and config.data.root not in ("data", ""):
        raise UsageError(
            f"data.root={config.data.root} has no effect with data.source=digits, which are built in; leave it out, or "
            "give data.source=folder"
        )


def check_seed(seed: bool | int | None) -> None:
    """Refuse a seed that NumPy would."""
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed_everything must be between 0 and {LARGEST_SEED}, got {seed}")


def check_optimizer(optimizer: Any) -> None:
    """Refuse whatever is no optimizer of torch before it is called."""
    path = optimizer.class_path if isinstance(optimizer, Namespace) else str(optimizer)
    name = path.removeprefix("torch.optim.")
    found = getattr(torch.optim, name, None) if path.startswith("torch.optim.") else None
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise UsageError(f"model.optimizer={path}: this is no class of torch.optim; give one, such as SGD or AdamW")
    if name in ("LBFGS", "SparseAdam"):
        raise UsageError(f"model.optimizer={name} cannot train this network; give another one, such as SGD or AdamW")


def check_trainer(trainer: Namespace) -> None:
    """Refuse what Lightning accepts although nothing would be trained, or fails at without saying why."""
    if trainer.overfit_batches:
        raise UsageError(
            "trainer.overfit_batches would put a sampler of its own in place of the project's; give a small "
            "trainer.limit_train_batches instead"
        )
    if trainer.barebones:
        raise UsageError(
            "trainer.barebones leaves out checkpoints and report, for which this project is there; leave it out"
        )
    if re.search("fsdp|deepspeed|model_?parallel|spawn|fork|notebook", str(trainer.strategy).lower()):
        raise UsageError(
            f"trainer.strategy={trainer.strategy} shards the network or forks this process, which the report cannot "
            "follow; give ddp"
        )
    for name in ("limit_train_batches", "limit_test_batches"):
        if trainer[name] == 0:
            raise UsageError(f"trainer.{name}=0 leaves nothing to report on; give 1 or more, or a share above 0.0")
    for name in AT_LEAST_1:
        endless = trainer[name] == -1 and name in ("max_epochs", "max_steps")
        if trainer[name] is not None and trainer[name] < 1 and not endless:
            remedy = " (or -1 for no limit)" if name in ("max_epochs", "max_steps") else ""
            raise UsageError(f"trainer.{name} must be 1 or more{remedy}, got {trainer[name]}")
    most = max(8, hardware.available_cores(), torch.cuda.device_count())
    if str(trainer.devices).isdigit() and int(trainer.devices) > most:
        raise UsageError(
            f"trainer.devices={trainer.devices} would start as many processes; give at most {most} on this machine"
        )
    if trainer.sync_batchnorm and (str(trainer.accelerator) == "cpu" or not torch.cuda.is_available()):
        raise UsageError("trainer.sync_batchnorm works on GPUs only; model.norm=layer needs no other process")
    if trainer.gradient_clip_val is not None and trainer.gradient_clip_val < 0:
        raise UsageError(f"trainer.gradient_clip_val must be 0 or more, got {trainer.gradient_clip_val}")
    if trainer.val_check_interval == 0:
        raise UsageError(
            "trainer.val_check_interval=0 would never validate; give a share of an epoch above 0.0, or a number of "
            "steps; data.val_size=0 trains without validation"
        )


def check_validation(config: Namespace, option: str) -> None:
    """Refuse what waits for a validation where an option of 0 leaves none."""
    need = ["model.schedule.name=plateau"] if config.model.schedule.name == "plateau" else []
    for callback in as_list(config.trainer.callbacks):
        monitor = str((callback.get("init_args") or {}).get("monitor", ""))
        if monitor.startswith("val/"):
            need.append(f"trainer.callbacks: {callback.class_path.rsplit('.')[-1]} with monitor={monitor}")
    if need:
        raise UsageError(f"{option}=0 leaves no validation, but it is needed by {'; '.join(need)}")


def as_list(value: Any) -> list[Any]:
    """Return an option that may be a list, one thing or None as a list."""
    return value if isinstance(value, list) else [value] if value else []
