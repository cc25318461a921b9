"""Do predictions change when the pixels that CAMs mark are blurred?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cifar_lit.analysis.bootstrap import Estimate, estimate
from cifar_lit.analysis.gradcam import activation_maps, upscale
from cifar_lit.analysis.scores import accuracy_interval
from cifar_lit.models.resnet import Layer, ResNet18
from cifar_lit.utils.hardware import eval_batch_size

AREAS = (0.05, 0.1, 0.2, 0.4)  # fractions of the image
SENTENCE_AREA = 0.2  # the one that a sentence is about
REPEATS = 2  # random positions for each image and area
FOR_PREDICTED, FOR_TRUE = "evidence for the predicted class", "evidence for the true class"
KINDS = (FOR_PREDICTED, FOR_TRUE)


@dataclass(frozen=True)
class Interventions:
    """How many errors change to the true class when a part of the image is replaced by its blurred self.

    Attributes:
        layer: The layer of the CAMs.
        num_images: Misclassified images whose CAMs for both classes have contrast.
        num_flat: Others, left out.
        turned: For each of KINDS the fraction of images that are then classified correctly, 0..1, for each of AREAS.
        random: The same for a part of the same shape at random positions.
        differences: `turned` minus `random`, image by image.
    """

    layer: Layer
    num_images: int
    num_flat: int
    turned: dict[str, list[Estimate | None]]
    random: dict[str, list[Estimate | None]]
    differences: dict[str, list[Estimate | None]]


def intervene(
    net: ResNet18,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    layer: Layer,
    method: str = "GradCAM",
    seed: int = 0,
) -> Interventions:
    """Blur what is evidence for one class and not for the other, and predict again.

    Args:
        net: In evaluation mode, in float32.
        images: Shape `(N, H, H, 3)`, uint8, misclassified.
        classes: Shape `(N, 2)`, the true and the predicted class of each.
        layer: The layer of the CAMs.
        method: As in `activation_maps`.
        seed: Of the random positions.
    """
    size = images.shape[1]
    pairs = activation_maps(net, images, classes, [layer], method)[layer]
    large = np.stack([[upscale(cam, size) for cam in pair] for pair in pairs])  # (N, 2, H, H)
    kept = np.flatnonzero((np.ptp(large, axis=(2, 3)) > 0).all(axis=1))
    images, classes, large = images[kept], classes[kept], large[kept]
    evidence = {FOR_PREDICTED: large[:, 1] - large[:, 0], FOR_TRUE: large[:, 0] - large[:, 1]}
    masks: list[NDArray[np.bool_]] = []
    for area in AREAS:
        for difference in evidence.values():
            marked = highest(difference, area)
            masks += [marked, *(shift_randomly(marked, seed + repeat) for repeat in range(REPEATS))]
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), size / 8) for image in images]) if len(kept) else images
    turned = np.stack(
        [
            predicted_classes(net, np.where(mask[..., None], blurred, images)) == classes[:, 0]
            for mask in tqdm(masks, desc="interventions", leave=False, disable=None)
        ]
    ).reshape(len(AREAS), len(KINDS), 1 + REPEATS, -1)
    marked, random = turned[:, :, 0].astype(np.float64), turned[:, :, 1:].mean(axis=2)  # (areas, kinds, N)

    def estimates(values: NDArray[Any], one: Callable[[NDArray[Any]], Estimate | None] = estimate) -> Any:
        return {kind: [one(column) for column in values[:, i]] for i, kind in enumerate(KINDS)}

    turned_by = estimates(marked, fraction), estimates(random), estimates(marked - random)
    return Interventions(layer, len(kept), len(pairs) - len(kept), *turned_by)


def fraction(hits: NDArray[np.float64]) -> Estimate | None:
    """Estimate a fraction from hits `(N,)`, 0 or 1, with Wilson's interval; None if there are none."""
    if not len(hits):
        return None
    return Estimate(float(hits.mean()), *accuracy_interval(int(hits.sum()), len(hits)), len(hits))


def highest(values: NDArray[np.float32], area: float) -> NDArray[np.bool_]:
    """Mark the fraction `area` of the pixels with the highest values, `(N, H, W)`; ties in a fixed random order."""
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    order = np.lexsort((np.random.default_rng(0).random(flat.shape), -flat))  # the highest first
    marked = order.argsort(axis=1) < round(area * flat.shape[1])
    return np.asarray(marked.reshape(values.shape))


def shift_randomly(masks: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Move each mask `(N, H, W)` by a random distance; what leaves the image at one side enters at the other."""
    rng = np.random.default_rng(seed)
    shifts = rng.integers(0, masks.shape[1:], (len(masks), 2))
    moved = [np.roll(mask, shift, axis=(0, 1)) for mask, shift in zip(masks, shifts, strict=True)]
    return np.array(moved, dtype=np.bool_).reshape(masks.shape)


def predicted_classes(net: ResNet18, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Predict images `(N, H, W, 3)`, uint8: `(N,)`."""
    size = eval_batch_size(images.shape[1])
    device = net.normalize.mean.device
    with torch.inference_mode():
        parts = [
            net(torch.from_numpy(images[start : start + size]).to(device)).argmax(dim=1).cpu().numpy()
            for start in range(0, len(images), size)
        ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
