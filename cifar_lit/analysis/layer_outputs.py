"""The outputs of the layers of any network, and whether CAMs of them mean anything."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cifar_lit.utils.errors import UsageError

Reshape = Callable[[Tensor], Tensor]


class _Outputs(dict[nn.Module, Tensor]):
    def __missing__(self, layer: nn.Module) -> Tensor:
        raise UsageError("target_layer: forward does not use this layer; use another one")


@contextmanager
def layer_outputs(layers: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect the outputs of layers in the forward passes of the block, with gradients even of frozen weights."""
    outputs = _Outputs()

    def collect(layer: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            kind = f"{type(layer).__name__} returns a {type(output).__name__}"
            raise UsageError(f"target_layer: {kind}, not a tensor; use a layer in it or after it")
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()
        outputs[layer] = output
        return output.clone()  # the next layer may change it in place, as the ReLU of torchvision's VGG does

    handles = [layer.register_forward_hook(collect) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def check_layers(
    network: Callable[[Tensor], Tensor], inputs: Tensor, layers: Sequence[nn.Module], reshape: Reshape | None
) -> None:
    """Raise UsageError if the CAMs of layers would be meaningless: tokens, or feature maps with the channels last.

    Arguments as in `cam_methods.run`.
    """
    aspect = None
    if inputs.ndim == 4:
        height, width = inputs.shape[1:3] if inputs.shape[3] == 3 else inputs.shape[2:]
        aspect = math.log(height / width)
    with layer_outputs(layers) as outputs:
        network(inputs)
    for layer in layers:
        _check_output(outputs[layer], reshape, aspect)


def _check_output(output: Tensor, reshape: Reshape | None, aspect: float | None) -> None:
    def is_map(features: Tensor) -> bool:
        """Return whether it is (B, channels, h, w), unless the image's proportions are those of the first two."""
        if features.ndim != 4 or aspect is None:
            return features.ndim == 4
        first, middle, last = (math.log(size) for size in features.shape[1:])
        return abs(middle - last - aspect) <= abs(first - middle - aspect) + 1e-9

    def shape(tensor: Tensor) -> str:
        return f"({', '.join(['B', *map(str, tensor.shape[1:])])})"

    problem = f"target_layer returns {shape(output)}"
    try:
        features = reshape(output) if reshape else output
    except Exception as error:  # of many kinds
        problem += f", for which reshape_transform fails ({error})"
    else:
        if is_map(features):
            return
        problem += f", and reshape_transform {shape(features)}" if reshape else ""
        problem += ", not (B, channels, h, w)"
    remedy = "use another layer, or give reshape_transform"
    if reshape and is_map(output):
        remedy = "leave out reshape_transform"
    elif output.ndim == 4:
        remedy = "use reshape_transform=lambda maps: maps.permute(0, 3, 1, 2)"
    elif output.ndim == 3:  # tokens; those of the patches come last
        side = math.isqrt(output.shape[1])
        patches = f"tokens[:, {output.shape[1] - side**2}:].reshape(len(tokens), {side}, {side}, -1)"
        remedy = f"for square images use reshape_transform=lambda tokens: {patches}.permute(0, 3, 1, 2)"
    raise UsageError(f"{problem}; {remedy}")


def check_gradients(method: str, tensors: Sequence[Tensor]) -> None:
    """Raise UsageError if a forward pass has computed any of the tensors without gradients."""
    if not all(one.requires_grad for one in tensors):
        raise UsageError(
            f"{method} needs gradients of target_layer, but forward computes it under torch.no_grad(); freeze its "
            "weights with requires_grad_(False) instead, or use method='EigenCAM', which needs none"
        )
