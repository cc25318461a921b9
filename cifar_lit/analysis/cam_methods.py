"""The methods of the grad-cam package by name, for ResNet18."""

import copy
import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_lit.models.resnet import Layer, ResNet18
from cifar_lit.utils.errors import UsageError

ALIASES = {"GradCAM++": "GradCAMPlusPlus"}
Reshape = Callable[[Tensor], Tensor]
IMAGE_SIZED = ("FullGrad", "RefineCAM", "SESS")  # they combine layers, or crops of the image
NUM_CONTRASTED = 3  # classes that FinerCAM compares with, as in the package


@cache
def methods() -> dict[str, Any]:
    """Return the package's classes that explain given layers, by name; the import takes a second or two."""
    import pytorch_grad_cam

    found = {
        name: value
        for name, value in vars(pytorch_grad_cam).items()
        if inspect.isclass(value) and "target_layers" in inspect.signature(value.__init__).parameters
    }
    del found["ActivationsAndGradients"]  # a helper of the methods
    return found


def check(option: str, method: str) -> str:
    """Return the method's name as spelled in the package.

    Raises:
        UsageError: There is no such method; the message lists all.
    """
    if method == "GradCAM":  # without the import
        return method
    name = ALIASES.get(method, method)
    if name not in methods():
        close = difflib.get_close_matches(name, methods(), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise UsageError(f"{option}={method}: no such method{hint} Available: {', '.join(sorted(methods()))}")
    return name


def package_cams(
    method: str, net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layers: Sequence[Layer]
) -> dict[Layer, NDArray[np.float32]]:
    """Compute CAMs with the package, on a copy of the network. Arguments and result as in `activation_maps`."""
    with torch.inference_mode(False), torch.enable_grad():
        net = copy.deepcopy(net).requires_grad_(True)
        pixels = net.normalize(torch.tensor(images, device=net.normalize.mean.device))
        pixels = pixels.contiguous(memory_format=net.memory_format)
        modules = [net.layer(layer) for layer in layers]
        cams = run(method, net.backbone, pixels, torch.from_numpy(classes), modules)
    return dict(zip(layers, cams, strict=True))


def run(
    method: str,
    network: nn.Module,
    inputs: Tensor,
    classes: Tensor,
    layers: Sequence[nn.Module],
    reshape: Reshape | None = None,
) -> list[NDArray[np.float32]]:
    """Compute CAMs of any network with the package, with gradients enabled.

    Args:
        method: One of `methods`.
        network: Maps `inputs` to logits `(B, C)`; in evaluation mode. Its parameters get gradients.
        inputs: Of B images.
        classes: As in `grad_cam`, like the other arguments and the result.
        layers: Modules of the network.
        reshape: For other layers than convolutions.
    """
    with torch.no_grad():
        logits = network(inputs)
    cams = []
    with layer_outputs(layers) as outputs:
        first = network(inputs[:1])
        features = {layer: outputs[layer] for layer in layers}
        for layer in layers:
            cam = methods()[method](network, [layer], reshape_transform=reshape)
            if getattr(cam, "uses_gradients", True):
                check_gradients(method, [features[layer], first])
            if method not in IMAGE_SIZED:  # do not resize; FinerCAM wraps the object that would
                getattr(cam, "base_cam", cam).get_target_width_height = lambda _input: None
            per_class = [
                cam(inputs.clone(), [_target(method, row, label) for row, label in zip(logits, column, strict=True)])
                for column in classes.T.tolist()
            ]
            cams.append(np.stack(per_class, axis=1).astype(np.float32))
    return cams


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

    Arguments as in `run`.
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


def _target(method: str, logits: torch.Tensor, label: int) -> Any:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget

    if method != "FinerCAM":
        return ClassifierOutputTarget(label)
    closest = [c for c in (logits - logits[label]).abs().argsort().tolist() if c != label]
    return FinerWeightedTarget(label, closest[:NUM_CONTRASTED], 1)
