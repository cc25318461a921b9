"""The methods of the grad-cam package by name, for ResNet18."""

import copy
import difflib
import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_lit.analysis.layer_outputs import Reshape, check_gradients, layer_outputs
from cifar_lit.models.resnet import Layer, ResNet18
from cifar_lit.utils.errors import UsageError

ALIASES = {"GradCAM++": "GradCAMPlusPlus"}
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


def _target(method: str, logits: torch.Tensor, label: int) -> Any:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget

    if method != "FinerCAM":
        return ClassifierOutputTarget(label)
    closest = [c for c in (logits - logits[label]).abs().argsort().tolist() if c != label]
    return FinerWeightedTarget(label, closest[:NUM_CONTRASTED], 1)
