"""How many floating-point operations a training takes."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

FORWARD_AND_BACKWARD = 3  # the gradients of inputs and of weights each take as many operations as the forward pass


def training_flops(net: nn.Module, sizes: Sequence[int], images: int) -> int:
    """Return the floating-point operations of the convolutions and linear layers, as torch counts them.

    A multiplication and an addition are two operations.

    Args:
        net: Maps uint8 images `(B, H, W, 3)` to logits; in evaluation mode.
        sizes: Height and width in pixels of the training images in each epoch.
        images: Number of training images per epoch.
    """
    forward = sum(epochs * images * _forward_flops(net, size) for size, epochs in Counter(sizes).items())
    return FORWARD_AND_BACKWARD * forward


def _forward_flops(net: nn.Module, size: int) -> int:
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=next(net.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(image)
    return int(counter.get_total_flops())
