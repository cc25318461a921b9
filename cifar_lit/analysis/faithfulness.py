"""How faithful CAMs are: removal of the marked pixels (ROAD) and cascading randomization of the network."""

import copy
import itertools
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from cifar_lit.analysis.gradcam import activation_maps, upscale
from cifar_lit.models.resnet import Layer, ResNet18
from cifar_lit.utils.hardware import eval_batch_size

STAGES = ("fc", "layer4", "layer3", "layer2", "layer1", "conv1")  # from the output to the input
PERCENTILES = (20, 40, 60, 80)


def road(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], cams: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Score CAMs by the change of the class probability when pixels are removed (arXiv 2202.00449).

    Equals ROADCombined of the grad-cam package: half the difference between the probability after removing the least
    and after removing the most relevant pixels, averaged over percentiles. The package's passes over the original
    images are left out, because their probability cancels.

    Args:
        net: In evaluation mode, in float32.
        images: Shape `(B, H, W, 3)`, uint8.
        classes: Shape `(B,)`, the class of each CAM.
        cams: Shape `(B, H, W)`, 0..1, as `upscale` returns them.

    Returns:
        Shape `(B,)`, float32, -0.5..0.5: above 0, the class depends on the marked pixels; 0, the CAM is as good as
        chance; nan if the CAM is constant, and so marks none.
    """
    from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirst, ROADMostRelevantFirst
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    scores = np.full(len(images), np.nan, dtype=np.float32)
    rows = np.flatnonzero(np.ptp(cams, axis=(1, 2)) > 0)
    if not len(rows):
        return scores
    # Ranks, ties in random order: the package removes all pixels of equal value at once, often a plateau of zeros.
    flat = cams[rows].reshape(len(rows), -1)
    order = np.lexsort((np.random.default_rng(0).random(flat.shape), flat))
    ranks = (order.argsort(axis=1) / flat.shape[1]).astype(np.float32).reshape(cams[rows].shape)
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's, about the package
        torch.default_generator.manual_seed(0)  # removed pixels are filled with a little noise
        pixels = net.normalize(torch.tensor(images[rows], device=net.normalize.mean.device))
        targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in classes[rows]]
        size = eval_batch_size(images.shape[1])
        parts = [slice(start, start + size) for start in range(0, len(rows), size)]
        removals = list(itertools.product((ROADLeastRelevantFirst, ROADMostRelevantFirst), PERCENTILES))
        probabilities = [
            [remove(percentile)(pixels[p], ranks[p], targets[p], net.backbone, return_diff=False) for p in parts]
            for remove, percentile in tqdm(removals, desc="faithfulness of the CAMs", leave=False, disable=None)
        ]
    least, most = np.split(np.array([np.concatenate(part) for part in probabilities]), 2)
    scores[rows] = (least.mean(axis=0) - most.mean(axis=0)) / 2
    return scores


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
        (biases and norms, with their statistics, are kept), the rank correlation (Spearman) of each CAM with the
        original one: shape `(B,)`, -1..1; nan if either is constant.
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
