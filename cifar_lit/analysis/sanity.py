"""Do CAMs depend on what the network has learned? Sanity checks with randomized weights."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from cifar_lit.analysis.bootstrap import Estimate, estimate
from cifar_lit.analysis.gradcam import activation_maps, upscale, why_flat
from cifar_lit.models.resnet import LAYERS, Layer, ResNet18

STAGES = ("fc", "layer4", "layer3", "layer2", "layer1", "conv1")  # from the output to the input
BINS = 100  # of the histogram, as in Quantus
SEED = 42  # as in Quantus, whose scores these are


@dataclass(frozen=True)
class Sanity:
    """Two checks of the CAMs of random images; pairs in which a CAM has no contrast are left out.

    Attributes:
        layer: The layer of the cascading randomization.
        num_images: How many images were drawn.
        similarity: Mean rank correlation with the original CAM, -1..1, after each stage of the randomization.
        complexity_rise: For each layer the mean rise of the CAM's complexity when all weights are randomized (eMPRT),
            relative to that of the original CAM, -1 or more.
    """

    layer: Layer
    num_images: int
    similarity: dict[str, Estimate | None]
    complexity_rise: dict[Layer, Estimate | None]


def check_sanity(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layer: Layer, method: str = "GradCAM"
) -> Sanity:
    """Run both checks.

    Args:
        net: In evaluation mode, in float32. Not changed.
        images: Shape `(N, H, H, 3)`, uint8.
        classes: Shape `(N,)`, the class to explain for each image.
        layer: The layer of the cascading randomization.
        method: As in `activation_maps`.
    """
    stages = cascading_randomization(net, images, classes, layer, method)
    rises = complexity_rise(net, randomize(net), images, classes, LAYERS, method)
    return Sanity(
        layer,
        len(images),
        {stage: estimate(values) for stage, values in stages.items()},
        {name: estimate(values) for name, values in rises.items()},
    )


def randomize(net: ResNet18, seed: int = SEED) -> ResNet18:
    """Return a copy of a network with the initial weights of every layer, also of the normalization layers.

    They are drawn as in Quantus: by `reset_parameters` of torch, after the same seed for each layer.
    """
    randomized = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for module in randomized.cpu().backbone.modules():
            if hasattr(module, "reset_parameters"):
                torch.default_generator.manual_seed(seed + 1)
                module.reset_parameters()
    return randomized.to(net.normalize.mean.device)


def complexity_rise(
    net: ResNet18,
    randomized: ResNet18,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    layers: Sequence[Layer],
    method: str = "GradCAM",
) -> dict[Layer, NDArray[np.float64]]:
    """Compute eMPRT (arXiv 2401.06465), the relative rise of a CAM's complexity in a randomized network.

    Above 0, the CAM of the trained network is simpler than that of the random one. Equals EfficientMPRT of Quantus for
    CAMs of the image's size with 100 bins, except that CAMs without contrast are left out: their complexity is 0.

    Args:
        net: In evaluation mode, in float32.
        randomized: From `randomize`.
        images: Shape `(N, H, H, 3)`, uint8.
        classes: Shape `(N,)`, the class to explain for each image.
        layers: Names of layers.
        method: As in `activation_maps`.

    Returns:
        For each layer the score of each image, shape `(N,)`, -1 or more; nan if either CAM has no contrast.
    """
    before, after = (
        {
            name: np.array([complexity(cam, images.shape[1]) for cam in cams[:, 0]])
            for name, cams in activation_maps(one, images, classes[:, None], layers, method).items()
        }
        for one in (net, randomized)
    )
    return {name: (after[name] - before[name]) / before[name] for name in layers}


def complexity(cam: NDArray[np.float32], size: int) -> float:
    """Return the entropy in nats of the histogram of a CAM `(h, w)`, enlarged to `size` px; nan without contrast."""
    if why_flat(cam):
        return np.nan
    counts = np.histogram(upscale(cam, size), bins=BINS)[0]
    fractions = counts[counts > 0] / counts.sum()
    return float(-(fractions * np.log(fractions)).sum())


def cascading_randomization(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layer: Layer, method: str = "GradCAM"
) -> dict[str, NDArray[np.float64]]:
    """Compare CAMs with those of a network that is randomized stage by stage from its output (arXiv 1810.03292).

    Args:
        net: In evaluation mode, in float32. Not changed.
        images: Shape `(B, H, W, 3)`, uint8.
        classes: Shape `(B,)`, the class to explain for each image.
        layer: The layer of the CAMs.
        method: As in `activation_maps`.

    Returns:
        For each stage, after which the convolutions and linear layers of it and of all later ones have random weights
        (biases and normalization layers, with their statistics, are kept), the rank correlation (Spearman) of each CAM
        with the original one: shape `(B,)`, -1..1; nan if either is constant.
    """
    randomized = copy.deepcopy(net)
    original = _cams(net, images, classes, layer, method)
    correlations = {}
    generator = torch.Generator(net.normalize.mean.device).manual_seed(0)
    for stage in tqdm(STAGES, desc="cascading randomization", leave=False, disable=None):
        for module in randomized.backbone.get_submodule(stage).modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=float(module.weight.detach().std()), generator=generator)
        pairs = zip(original, _cams(randomized, images, classes, layer, method), strict=True)
        correlations[stage] = np.array([_rank_correlation(*pair) for pair in pairs])
    return correlations


def _cams(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layer: Layer, method: str
) -> list[NDArray[np.float32]]:
    cams = activation_maps(net, images, classes[:, None], [layer], method)[layer]
    return [upscale(cam, images.shape[1]) for cam in cams[:, 0]]


def _rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    from scipy.stats import spearmanr

    return np.nan if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a.ravel(), b.ravel()).statistic)
