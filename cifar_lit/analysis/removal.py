"""Do predictions depend on the pixels that CAMs mark? Removal (ROAD, arXiv 2202.00449), compared with null maps."""

import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cifar_lit.analysis.bootstrap import Estimate, estimate
from cifar_lit.analysis.gradcam import activation_maps, upscale
from cifar_lit.analysis.localization import centered_blob
from cifar_lit.models.resnet import Layer, ResNet18
from cifar_lit.utils.hardware import eval_batch_size

PERCENTILES = (20, 40, 60, 80)
CAM = "the CAM"
NULL_MAPS = ("random", "centered blob", "another image's CAM", "the other class's CAM", "the CAM, blurred")


@dataclass(frozen=True)
class Removal:
    """ROAD of the CAMs of random images and of null maps, which a CAM that shows the evidence should exceed.

    Attributes:
        layer: The layer of the CAMs.
        num_images: How many images were drawn. Maps without contrast have no score.
        scores: The mean for the CAMs and for each kind of null map; None if none has a score.
        differences: For each kind of null map the mean of the CAM's score minus the null map's of the same image.
    """

    layer: Layer
    num_images: int
    scores: dict[str, Estimate | None]
    differences: dict[str, Estimate | None]


def compare_with_null_maps(
    net: ResNet18,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    layer: Layer,
    method: str = "GradCAM",
    seed: int = 0,
) -> Removal:
    """Score CAMs and null maps by removal.

    Args:
        net: In evaluation mode, in float32.
        images: Shape `(N, H, H, 3)`, uint8, two or more.
        classes: Shape `(N, 2)`: the class whose probability is measured, and the one for the other class's CAM.
        layer: The layer of the CAMs.
        method: As in `activation_maps`.
        seed: Of the random maps.
    """
    maps = null_maps(net, images, classes, layer, method, seed)
    scores = {name: road(net, images, classes[:, 0], one) for name, one in maps.items()}
    return Removal(
        layer,
        len(images),
        {name: estimate(values) for name, values in scores.items()},
        {name: estimate(scores[CAM] - scores[name]) for name in NULL_MAPS},
    )


def null_maps(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layer: Layer, method: str, seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Return the CAMs and the null maps by name, each `(N, H, H)`, 0..1; see `compare_with_null_maps`."""
    size = images.shape[1]
    pairs = activation_maps(net, images, classes, [layer], method)[layer]
    cams, other = (np.stack([upscale(cam, size) for cam in pairs[:, k]]) for k in (0, 1))
    blurred = np.stack([cv2.GaussianBlur(cam, (0, 0), size / 8) for cam in cams])
    kinds = (
        cams,
        np.random.default_rng(seed).random(cams.shape, dtype=np.float32),
        np.tile(centered_blob(size), (len(cams), 1, 1)),
        _of_another(cams),
        other,
        blurred,
    )
    return dict(zip((CAM, *NULL_MAPS), kinds, strict=True))


def _of_another(cams: NDArray[np.float32]) -> NDArray[np.float32]:
    """Exchange the CAMs that have contrast, so that each image gets another one's; a single one gets none."""
    rows = np.flatnonzero(np.ptp(cams, axis=(1, 2)) > 0)
    if len(rows) == 1:
        return np.zeros_like(cams)
    exchanged = cams.copy()
    exchanged[rows] = np.roll(cams[rows], 1, axis=0)
    return exchanged


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
    tie_breaker = np.random.default_rng(0).random(flat.shape[1])  # the same for each, whatever is scored with it
    order = np.lexsort((np.broadcast_to(tie_breaker, flat.shape), flat))
    ranks = (order.argsort(axis=1) / flat.shape[1]).astype(np.float32).reshape(cams[rows].shape)
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's, about the package
        torch.default_generator.manual_seed(0)  # removed pixels are filled with a little noise
        size = min(64, eval_batch_size(images.shape[1]))  # for the progress bar
        parts = [slice(start, start + size) for start in range(0, len(rows), size)]
        for part in tqdm(parts, desc="removal (ROAD)", leave=False, disable=None):
            pixels = net.normalize(torch.tensor(images[rows[part]], device=net.normalize.mean.device))
            targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in classes[rows[part]]]
            least, most = (
                [remove(p)(pixels, ranks[part], targets, net.backbone, return_diff=False) for p in PERCENTILES]
                for remove in (ROADLeastRelevantFirst, ROADMostRelevantFirst)
            )
            scores[rows[part]] = (np.mean(least, axis=0) - np.mean(most, axis=0)) / 2
    return scores
