"""Every method of the grad-cam package by its name, on our networks."""

import copy
import difflib
import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_lit.models.resnet import ResNet18, Layer
from cifar_lit.utils.errors import UsageError

ALIASES = {"GradCAM++": "GradCAMPlusPlus"}
SIMILAR = 3  # classes that FinerCAM contrasts with, as in the package


@cache
def methods() -> dict[str, Any]:
    """Return the package's classes that explain chosen layers, by name; importing it takes a second or two."""
    import pytorch_grad_cam

    found = {
        name: one
        for name, one in vars(pytorch_grad_cam).items()
        if inspect.isclass(one) and "target_layers" in inspect.signature(one.__init__).parameters
    }
    del found["ActivationsAndGradients"]  # what the methods are built on
    return found


def check(option: str, method: str) -> str:
    """Return the method's name as the package spells it.

    Raises:
        UsageError: There is none of that name; the message lists them.
    """
    if method == "GradCAM":  # nothing to import for the default
        return method
    name = ALIASES.get(method, method)
    if name not in methods():
        near = difflib.get_close_matches(name, methods(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{option}={method}: no such method{hint} There are: {', '.join(sorted(methods()))}")
    return name


def package_maps(
    method: str, net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layers: Sequence[Layer]
) -> dict[Layer, NDArray[np.float32]]:
    """Compute maps with the package, on a copy of the network.

    Args:
        method: A name from `methods`.
        net: In evaluation mode, in float32.
        images: Shape `(B, H, W, 3)`, uint8.
        classes: Shape `(B, K)`, the classes to explain for each image.
        layers: Names among `layer1` to `layer4`.

    Returns:
        For each layer an array `(B, K, H, W)`, float32, each map stretched to 0..1 by the package.
    """
    device = net.normalize.mean.device
    with torch.inference_mode(False), torch.enable_grad():
        copied = copy.deepcopy(net).requires_grad_(True)
        pixels = copied.normalize(torch.tensor(images, device=device)).contiguous(memory_format=net.memory_format)
        with torch.no_grad():
            logits = copied.backbone(pixels)
        maps: dict[Layer, NDArray[np.float32]] = {}
        for layer in layers:
            cam = methods()[method](copied.backbone, [copied.layer(layer)])
            each = [
                cam(pixels.clone(), [_target(method, logits[i], int(c)) for i, c in enumerate(column)])
                for column in classes.T
            ]
            maps[layer] = np.stack(each, axis=1).astype(np.float32)
    return maps


def _target(method: str, logits: torch.Tensor, label: int) -> Any:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget

    if method != "FinerCAM":
        return ClassifierOutputTarget(label)
    nearest = [int(c) for c in (logits - logits[label]).abs().argsort() if c != label][:SIMILAR]
    return FinerWeightedTarget(label, nearest, 1)
