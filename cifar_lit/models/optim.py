"""Parameter groups, learning rates, momentum and gradient clipping."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from cifar_lit.models.resnet import OutputLayer
from cifar_lit.utils.errors import UsageError

LR_MULT = "lr_mult"  # key of a parameter group; optimizers keep keys that they do not know


def parameter_groups(
    net: nn.Module,
    norm_weight_decay: float | None = None,
    norm_bias_lr_mult: float = 1.0,
    backbone_lr_mult: float = 1.0,
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer of torch.optim, those with the optimizer's own learning rate first.

    Args:
        net: The network.
        norm_weight_decay: Weight decay of normalization layers and of all biases, 0 or more; None for the optimizer's
            own.
        norm_bias_lr_mult: Multiplies the learning rate of the biases of normalization layers, above 0.
        backbone_lr_mult: Multiplies the learning rate of all layers but the last one, above 0.
    """
    if norm_weight_decay is not None and norm_weight_decay < 0:
        raise UsageError(f"model.norm_weight_decay must be 0 or more, got {norm_weight_decay}")
    for option, value in (("norm_bias_lr_mult", norm_bias_lr_mult), ("backbone_lr_mult", backbone_lr_mult)):
        if value <= 0:
            raise UsageError(f"model.{option} must be above 0, got {value}")
    groups: dict[tuple[float, bool], list[Parameter]] = {}  # by multiplier, and whether norm_weight_decay applies
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            norm = parameter.ndim == 1 and not isinstance(module, (nn.Conv2d, nn.Linear))
            mult = norm_bias_lr_mult if norm and name == "bias" else 1.0
            mult *= 1.0 if isinstance(module, OutputLayer) else backbone_lr_mult
            decays_apart = parameter.ndim == 1 and norm_weight_decay is not None
            groups.setdefault((mult, decays_apart), []).append(parameter)
    return [
        {"params": parameters}
        | ({"weight_decay": norm_weight_decay} if decays_apart else {})
        | ({} if mult == 1 else {LR_MULT: mult})
        for (mult, decays_apart), parameters in sorted(groups.items(), key=lambda group: group[0][0] != 1)
    ]


def build_optimizer(
    make: Callable[[list[dict[str, Any]]], Optimizer], groups: list[dict[str, Any]], lr: float | None = None
) -> Optimizer:
    """Build an optimizer.

    Args:
        make: The class with its other arguments.
        groups: From `parameter_groups`.
        lr: Replaces the learning rate of `make`.

    Raises:
        UsageError: The class refuses an argument.
    """
    try:
        optimizer = make(groups)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"model.optimizer: {error}; see the documentation of this torch.optim class") from None
    set_learning_rates(optimizer, lr)
    init_momentum(optimizer)
    return optimizer


def set_learning_rates(optimizer: Optimizer, lr: float | None = None) -> None:
    """Set the learning rate of each group to `lr`, or the optimizer's own, times the group's multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = (group["lr"] if lr is None else lr) * group.get(LR_MULT, 1.0)


def init_momentum(optimizer: Optimizer) -> None:
    """Set the momentum of a fused SGD to zero.

    If the first step overflows in float16, torch leaves the buffer uninitialized, and uses it in the next step.
    """
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD) and group["fused"] and group["momentum"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def clip_gradients(trainer: Trainer, optimizer: Optimizer, value: float, algorithm: str | None) -> None:
    """Clip gradients as set by `trainer.gradient_clip_val` and `trainer.gradient_clip_algorithm`."""
    if trainer.scaler is not None and optimizer.param_groups[0].get("fused"):
        trainer.scaler.unscale_(optimizer)  # Lightning leaves it to the step of a fused optimizer
    precision = trainer.precision_plugin
    clip = precision.clip_grad_by_value if algorithm == "value" else precision.clip_grad_by_norm
    clip(optimizer, value)
