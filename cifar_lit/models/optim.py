"""Which parameters of a network the optimizer treats in which way."""

from typing import Any

from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

FACTOR = "lr_factor"  # a group's rate over that of the weights; optimizers keep what they do not know in the group


def parameter_groups(
    net: nn.Module, norm_weight_decay: float | None = None, norm_bias_lr_mult: float = 1.0
) -> list[dict[str, Any]]:
    """Return the groups for an optimizer of torch.optim, the weights of convolutions and linear layers first.

    Args:
        net: The network.
        norm_weight_decay: Weight decay of everything else, that is norms and biases, 0 or more; None for the
            optimizer's own.
        norm_bias_lr_mult: What the rate of the norms' biases is multiplied by, above 0.
    """
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
        {"params": norm_biases, **decay, FACTOR: norm_bias_lr_mult},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rates(optimizer: Optimizer, lr: float | None = None) -> None:
    """Give each group its rate: `lr`, or the optimizer's own, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = (group["lr"] if lr is None else lr) * group.get(FACTOR, 1.0)
