"""Parameter groups, learning rates, momentum and gradient clipping."""

from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from cifar_lit.utils.errors import UsageError

LR_MULT = "lr_mult"  # key of a parameter group; optimizers keep keys that they do not know


def parameter_groups(
    net: nn.Module, norm_weight_decay: float | None = None, norm_bias_lr_mult: float = 1.0
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer of torch.optim, weights of convolutions and linear layers first.

    Args:
        net: The network.
        norm_weight_decay: Weight decay of norms and of all biases, 0 or more; None for the optimizer's own.
        norm_bias_lr_mult: Multiplies the learning rate of the norms' biases, above 0.
    """
    if norm_weight_decay is not None and norm_weight_decay < 0:
        raise UsageError(f"model.norm_weight_decay must be 0 or more, got {norm_weight_decay}")
    if norm_bias_lr_mult <= 0:
        raise UsageError(f"model.norm_bias_lr_mult must be above 0, got {norm_bias_lr_mult}")
    weights: list[Parameter] = []
    others: list[Parameter] = []
    norm_biases: list[Parameter] = []
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            norm = parameter.ndim == 1 and not isinstance(module, (nn.Conv2d, nn.Linear))
            if norm and name == "bias" and norm_bias_lr_mult != 1:
                norm_biases.append(parameter)
            elif parameter.ndim == 1 and norm_weight_decay is not None:
                others.append(parameter)
            else:
                weights.append(parameter)
    decay = {} if norm_weight_decay is None else {"weight_decay": norm_weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": weights},
        {"params": others, **decay},
        {"params": norm_biases, **decay, LR_MULT: norm_bias_lr_mult},
    ]
    return [group for group in groups if group["params"]]


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
