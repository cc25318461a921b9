"""How far a map can be trusted: removing what it marks (ROAD), and making the network forget (randomisation)."""

import copy
import itertools
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from cifar_lit.analysis.gradcam import activation_maps, upscale
from cifar_lit.analysis.predictions import batch_size
from cifar_lit.models.resnet import ResNet18, Layer

STAGES = ("fc", "layer4", "layer3", "layer2", "layer1", "conv1")  # from the output to the input
SHARES = (20, 40, 60, 80)  # of the pixels, in percent


def road(
    net: ResNet18,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    heat: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Score maps by what happens to a class's probability when the marked places are removed (arXiv 2202.00449).

    It is what the grad-cam package's ROADCombined computes: half the difference between the probability after removing
    the least and after removing the most relevant pixels, averaged over shares of the image. That class also runs the
    network on the whole images, to subtract the same probability from both; here it is left out.

    Args:
        net: In evaluation mode, in float32.
        images: Shape `(B, H, W, 3)`, uint8.
        classes: Shape `(B,)`, the class that each map speaks for.
        heat: Shape `(B, H, W)`, 0..1.

    Returns:
        Shape `(B,)`, -0.5..0.5: above 0, the map marks what the class lives on; 0, it is as good as chance; nan where
        the map is empty.
    """
    from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirst, ROADMostRelevantFirst
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    scores = np.full(len(images), np.nan, dtype=np.float32)
    filled = np.flatnonzero(heat.reshape(len(heat), -1).max(axis=1) > 0)
    if not len(filled):
        return scores
    # Places of equal heat, often a plateau of zeros, would be removed all at once: ranks, where chance orders those.
    flat = heat[filled].reshape(len(filled), -1)
    order = np.lexsort((np.random.default_rng(0).random(flat.shape), flat))
    ordered = (order.argsort(axis=1) / flat.shape[1]).astype(np.float32).reshape(heat[filled].shape)
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the removed pixels are filled with a little noise
        pixels = net.normalize(torch.tensor(images[filled], device=net.normalize.mean.device))
        targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in classes[filled]]
        size = batch_size(images.shape[1])
        parts = [slice(start, start + size) for start in range(0, len(filled), size)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy's, about how the package calls it
            steps = list(itertools.product((ROADLeastRelevantFirst, ROADMostRelevantFirst), SHARES))
            bar = tqdm(steps, desc="faithfulness of the maps", leave=False, disable=None)
            after = [
                np.concatenate(
                    [remove(share)(pixels[p], ordered[p], targets[p], net.backbone, return_diff=False) for p in parts]
                )
                for remove, share in bar
            ]
    least, most = np.split(np.array(after), 2)
    scores[filled] = (least.mean(axis=0) - most.mean(axis=0)) / 2
    return scores


def cascading_randomization(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layer: Layer, method: str = "GradCAM"
) -> list[tuple[str, float]]:
    """Compare maps with those of a network that forgets, from its output on, all that it learnt (arXiv 1810.03292).

    Args:
        net: In evaluation mode, in float32; stays as it is.
        images: Shape `(B, H, W, 3)`, uint8.
        classes: Shape `(B,)`, the class to explain for each image.
        layer: Whose maps are compared.
        method: As in `activation_maps`.

    Returns:
        For each stage, after which the convolutions or linear layers of it and all later ones hold random weights
        (norms and biases stay as they are), the mean rank correlation (Spearman) of the maps with the original ones,
        -1..1; an empty or even map counts as 0.
    """
    forgetful = copy.deepcopy(net)
    original = _maps(net, images, classes, layer, method)
    similar = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for stage in tqdm(STAGES, desc="sanity check of the maps", leave=False, disable=None):
            for module in forgetful.backbone.get_submodule(stage).modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.normal_(module.weight, std=float(module.weight.std()))
            now = _maps(forgetful, images, classes, layer, method)
            similar.append(
                (stage, float(np.mean([_rank_correlation(*pair) for pair in zip(original, now, strict=True)])))
            )
    return similar


def _maps(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layer: Layer, method: str
) -> Sequence[NDArray[np.float32]]:
    raw = activation_maps(net, images, classes[:, None], [layer], method)[layer]
    return [upscale(one[0], images.shape[1]) for one in raw]


def _rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one.ravel(), other.ravel()).statistic)
