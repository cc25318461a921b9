"""Class activation maps (CAMs): which regions of an image are evidence for a class.

Grad-CAM (arXiv 1610.02391), HiResCAM (2011.08891) and LayerCAM (10.1109/TIP.2021.3089943) combine the same features
and gradients: one forward pass, and a backward pass per class, give all three for all layers. The grad-cam package,
with the same result, runs once per method, layer and class. The other methods are the package's.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_lit.analysis.cam_methods import package_cams
from cifar_lit.analysis.layer_outputs import Reshape, check_gradients, layer_outputs
from cifar_lit.models.resnet import LAYERS, Layer, ResNet18

MAX_PIXELS = 2**16  # in a batch; the activations of all layers are kept in memory
MIN_CONTRAST = 1e-3  # relative to the highest value; stretching less to 0..1 shows rounding errors as stripes
NO_EVIDENCE = "no evidence"

# How features and gradients, `(B, channels, h, w)` each, are multiplied before the channels are summed.
GRADIENT_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "GradCAM": lambda features, gradients: gradients.mean(dim=(2, 3), keepdim=True) * features,
    "HiResCAM": lambda features, gradients: gradients * features,
    "LayerCAM": lambda features, gradients: gradients.relu() * features,
}


def activation_maps(
    net: ResNet18,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    layers: Sequence[Layer],
    method: str = "GradCAM",
) -> dict[Layer, NDArray[np.float32]]:
    """Compute CAMs.

    Args:
        net: In evaluation mode, in float32. Not changed: no gradients are stored, no hooks remain.
        images: Shape `(B, H, W, 3)`, uint8.
        classes: Shape `(B, K)`, the classes to explain for each image.
        layers: Names among `layer1` to `layer4`.
        method: `GradCAM`, or another one of `cam_methods.methods`.

    Returns:
        For each layer an array `(B, K, h, w)`, float32, 0 or more, of the layer's height and width (the image's for
        `cam_methods.IMAGE_SIZED`). The scale of each CAM is arbitrary; `upscale` removes it. 1x1 CAMs do not
        localize anything, whatever their value; see `why_flat`.
    """
    if method not in GRADIENT_METHODS:
        sizes = layer_sizes(net, images.shape[1])
        large = [name for name in layers if sizes[name] > 1 or method == "FullGrad"]  # which combines all layers
        flat = np.zeros((*classes.shape, 1, 1), dtype=np.float32)
        return dict.fromkeys(layers, flat) | package_cams(method, net, images, classes, large)
    return gradient_cams(net, images, classes, layers, [method])[method]


def gradient_cams(
    net: ResNet18,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    layers: Sequence[Layer],
    methods: Sequence[str],
) -> dict[str, dict[Layer, NDArray[np.float32]]]:
    """Compute CAMs by several of GRADIENT_METHODS from the same passes; see `activation_maps`."""
    size = max(1, MAX_PIXELS // images.shape[1] ** 2)
    parts = [
        _gradient_cams(net, images[start : start + size], classes[start : start + size], layers, methods)
        for start in range(0, len(images), size)
    ]
    return {
        method: {name: np.concatenate([part[method][i] for part in parts]) for i, name in enumerate(layers)}
        for method in methods
    }


def _gradient_cams(
    net: ResNet18,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    layers: Sequence[Layer],
    methods: Sequence[str],
) -> dict[str, list[NDArray[np.float32]]]:
    device = net.normalize.mean.device
    with torch.inference_mode(False), torch.enable_grad():
        pixels = net.normalize(torch.tensor(images, device=device)).requires_grad_()
        modules = [net.layer(name) for name in layers]
        return grad_cam(lambda: net.backbone(pixels), modules, torch.tensor(classes, device=device), methods=methods)


def grad_cam(
    forward: Callable[[], Tensor],
    layers: Sequence[nn.Module],
    classes: Tensor,
    reshape: Reshape | None = None,
    methods: Sequence[str] = ("GradCAM",),
) -> dict[str, list[NDArray[np.float32]]]:
    """Compute Grad-CAM and its relatives for layers of any network.

    Args:
        forward: Runs the network on B images, with gradients, and returns the logits `(B, C)`.
        layers: Modules that return `(B, channels, h, w)`, or what `reshape` maps to that.
        classes: Shape `(B, K)`, the classes to explain for each image.
        reshape: For layers with another output, such as the tokens of a transformer.
        methods: Of GRADIENT_METHODS.

    Returns:
        For each method and layer an array `(B, K, h, w)`, float32, 0 or more.
    """
    with layer_outputs(layers) as outputs:
        logits = forward()
    features = [outputs[layer] for layer in layers]
    check_gradients(methods[0], [*features, logits])
    scores = logits.gather(1, classes)  # (B, K)
    cams: dict[str, list[list[Tensor]]] = {method: [[] for _ in layers] for method in methods}
    for k in range(scores.shape[1]):
        gradients = torch.autograd.grad(scores[:, k].sum(), features, retain_graph=True)
        for i, (feature, gradient) in enumerate(zip(features, gradients, strict=True)):
            feature, gradient = (reshape(feature), reshape(gradient)) if reshape else (feature, gradient)
            feature = feature.detach()
            for method in methods:
                cams[method][i].append(GRADIENT_METHODS[method](feature, gradient).sum(dim=1).relu())  # (B, h, w)
    return {
        method: [torch.stack(per_class, dim=1).float().cpu().numpy() for per_class in per_layer]
        for method, per_layer in cams.items()
    }


def upscale(cam: NDArray[np.float32], height: int, width: int | None = None) -> NDArray[np.float32]:
    """Resize a CAM `(h, w)` bilinearly to `(height, width)`, by default a square, and stretch it to 0..1, float32.

    A CAM without contrast becomes constant: 0 if there is no evidence for the class, else 0.5.
    """
    width = width or height
    if reason := why_flat(cam):
        return np.full((height, width), 0 if reason == NO_EVIDENCE else 0.5, dtype=np.float32)
    large = np.asarray(cv2.resize(cam, (width, height)), dtype=np.float32)
    large -= large.min()
    stretched: NDArray[np.float32] = large / large.max()
    return stretched


def why_flat(cam: NDArray[np.float32]) -> str:
    """Return why a CAM `(h, w)` does not localize anything, as a caption: it is constant; empty if it is not."""
    if np.ptp(cam) > MIN_CONTRAST * cam.max():
        return ""
    if cam.size == 1:
        return "1x1: not localized"
    return "constant: not localized" if cam.any() else NO_EVIDENCE


def default_layer(net: ResNet18, image_size: int) -> Layer:
    """Return the deepest layer with an output above 5 px, smaller ones hardly locate anything, else the first."""
    sizes = layer_sizes(net, image_size)
    large = [name for name in LAYERS if sizes[name] > 5]
    return large[-1] if large else LAYERS[0]


def layer_sizes(net: ResNet18, image_size: int) -> dict[Layer, int]:
    """Return the height and width in px of the output of each layer."""
    image = torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8, device=net.normalize.mean.device)
    with layer_outputs([net.layer(name) for name in LAYERS]) as outputs, torch.inference_mode():
        net(image)
    return {name: outputs[net.layer(name)].shape[-1] for name in LAYERS}
