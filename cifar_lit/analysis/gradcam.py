"""Grad-CAM (arXiv 1610.02391): which places of a image speak for a class.

The maps equal those of the grad-cam package (a test compares them) and cost one forward pass and one backward pass for
each class, however many layers are asked for; the package runs once for each layer and class.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_lit.analysis.cam_methods import package_maps
from cifar_lit.models.resnet import LAYERS, ResNet18, Layer

PIXELS = 2**16  # of the images that are explained together, at most: what every layer says of them is kept meanwhile


def activation_maps(
    net: ResNet18,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    layers: Sequence[Layer],
    method: str = "GradCAM",
) -> dict[Layer, NDArray[np.float32]]:
    """Compute the maps; for Grad-CAM channels weighted by their mean gradient, summed, negative values cut off.

    Args:
        net: In evaluation mode, in float32. Left as it is: no gradient is stored, no hook stays.
        images: Shape `(B, H, W, 3)`, uint8.
        classes: Shape `(B, K)`, the classes to explain for each image.
        layers: Names among `layer1` to `layer4`.
        method: `GradCAM`, or another of `cams.methods`.

    Returns:
        For each layer an array `(B, K, h, w)`, float32, 0 or more, of the layer's own height and width (of the
        image's, for other methods than Grad-CAM).
    """
    if method != "GradCAM":
        return package_maps(method, net, images, classes, layers)
    size = max(1, PIXELS // images.shape[1] ** 2)
    parts = [
        _grad_cam(net, images[start : start + size], classes[start : start + size], layers)
        for start in range(0, len(images), size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in layers}


def _grad_cam(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layers: Sequence[Layer]
) -> dict[Layer, NDArray[np.float32]]:
    """Compute the maps of a few images."""
    kept: dict[Layer, Tensor] = {}

    def keep(name: Layer) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            kept[name] = output

        return net.layer(name).register_forward_hook(hook)

    device = net.normalize.mean.device
    handles = [keep(name) for name in layers]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            pixels = net.normalize(torch.tensor(images, device=device)).requires_grad_()
            logits = net.backbone(pixels)
            scores = logits.gather(1, torch.tensor(classes, device=device))  # (B, K)
            features = [kept[name] for name in layers]
            maps: list[list[Tensor]] = [[] for _ in layers]
            for k in range(scores.shape[1]):
                gradients = torch.autograd.grad(scores[:, k].sum(), features, retain_graph=True)
                for one, feature, gradient in zip(maps, features, gradients, strict=True):
                    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (B, channels, 1, 1)
                    one.append((weights * feature).sum(dim=1).relu().detach())  # (B, h, w)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.stack(one, dim=1).cpu().numpy() for name, one in zip(layers, maps, strict=True)}


def upscale(activation: NDArray[np.float32], image_size: int) -> NDArray[np.float32]:
    """Enlarge a map `(h, w)` bilinearly to `(image_size, image_size)` and stretch it to 0..1, float32.

    An all-zero map (nothing speaks for the class) stays zero.
    """
    large = np.asarray(cv2.resize(activation, (image_size, image_size)), dtype=np.float32)
    large -= large.min()
    largest = large.max()
    stretched: NDArray[np.float32] = np.divide(large, largest, out=large, where=largest > 0)
    return stretched


def layer_sizes(net: ResNet18, image_size: int) -> dict[Layer, int]:
    """Return the height (equal to the width) in pixels of each layer's map."""
    sizes: dict[Layer, int] = {}
    handles = [
        net.layer(name).register_forward_hook(lambda _m, _i, output, name=name: sizes.update({name: output.shape[-1]}))
        for name in LAYERS
    ]
    try:
        with torch.inference_mode():
            net(torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8, device=net.normalize.mean.device))
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def default_layer(net: ResNet18, image_size: int) -> Layer:
    """Return the deepest layer whose map is larger than 5 px (smaller ones show hardly any place), else the first."""
    large = [name for name, size in layer_sizes(net, image_size).items() if size > 5]
    return large[-1] if large else LAYERS[0]
