"""Do CAMs localize a class? The grid pointing game (arXiv 2205.10435), whose correct answer is known."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cifar_lit.analysis.bootstrap import Estimate, as_estimate, estimate
from cifar_lit.analysis.gradcam import MAX_PIXELS, gradient_cams, layer_sizes
from cifar_lit.models.resnet import LAYERS, Layer, ResNet18

if TYPE_CHECKING:  # inference imports this file, but not Lightning
    from cifar_lit.analysis.predictions import Predictions

METHODS = ("GradCAM", "HiResCAM", "LayerCAM")
BLOB = "centered blob"  # the null map
CELLS = 4  # 2 x 2
CHANCE = 1 / CELLS
MIN_CONFIDENCE = 0.9


@dataclass(frozen=True)
class Localization:
    """Scores of the pointing game: the fraction of the positive CAM of a class in the cell with its image.

    Attributes:
        num_mosaics: Mosaics of four images of different classes.
        num_images: Different images in them; fewer than four per mosaic if some recur.
        scores: For each method and layer the mean over mosaics of the mean over the four classes; None if no CAM has
            positive values. The null map has the same score in every layer. CAMs that have 1 px for a single image
            are not scored, because they do not localize anything in it.
        sizes: Height and width in px of each layer's CAM of a single image.
    """

    num_mosaics: int
    num_images: int
    scores: dict[str, dict[Layer, Estimate | None]]
    sizes: dict[Layer, int]

    def best_layer(self, method: str) -> Layer | None:
        """Return the layer with the highest mean score, of those whose CAM of a single image is larger than 5 px.

        Args:
            method: One of METHODS; Grad-CAM takes the place of others.

        Returns:
            The deeper one of two with the same score; None if none was scored.
        """
        found = self.choices(method)
        return max(reversed(found), key=lambda name: found[name], default=None)

    def choices(self, method: str) -> dict[Layer, float]:
        """Return the mean scores of the layers that `best_layer` chooses from."""
        scores = self.scores.get(method, self.scores["GradCAM"])
        return {name: score.value for name, score in scores.items() if score and self.sizes[name] > 5}


def read_best_layer(file: Path, weights: str) -> Layer | None:
    """Return the layer that localizes best according to the `evidence.json` of a report.

    Args:
        file: The file.
        weights: Fingerprint of the network.

    Returns:
        None if the file has no scores, or those of other weights.
    """
    values = json.loads(file.read_text(encoding="utf-8"), object_hook=as_estimate)
    if values.get("weights") != weights or not values["localization"]:
        return None
    return Localization(**values["localization"]).best_layer(values["method"])


def draw_mosaics(test: "Predictions", count: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw images that are classified correctly with a probability of at least 0.9, of four classes for each mosaic.

    An image recurs only when too few others are left. There are at most as many mosaics as such images, and none if
    they are of fewer than four classes.

    Returns:
        Rows of `test`, shape `(mosaics, 4)`: upper left, upper right, lower left, lower right.
    """
    rng = np.random.default_rng(seed)
    confident = np.flatnonzero((test.predicted == test.labels) & (test.confidence >= MIN_CONFIDENCE))
    by_class = {label: confident[test.labels[confident] == label] for label in np.unique(test.labels[confident])}
    if len(by_class) < CELLS:
        return np.zeros((0, CELLS), dtype=np.int64)
    left: dict[int, list[int]] = {}
    mosaics = []
    for _ in range(min(count, len(confident))):
        if sum(map(bool, left.values())) < CELLS:
            left = {label: rng.permutation(rows).tolist() for label, rows in by_class.items()}
        fullest = sorted(left, key=lambda label: (len(left[label]), rng.random()))[-CELLS:]
        mosaics.append([left[label].pop() for label in rng.permutation(fullest)])
    return np.array(mosaics, dtype=np.int64).reshape(-1, CELLS)


def assemble(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Join images `(N, 4, H, W, 3)` to mosaics `(N, 2H, 2W, 3)`."""
    upper, lower = (np.concatenate([images[:, i], images[:, i + 1]], axis=2) for i in (0, 2))
    return np.concatenate([upper, lower], axis=1)


def cell_fractions(cam: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Return the fraction of a CAM `(h, w)` in each cell of a mosaic of `size` px, shape `(4,)`, nan if it is zero.

    The CAM is resized bilinearly, as it is drawn, but not stretched, which would change the fractions.
    """
    large = cv2.resize(cam, (size, size)).astype(np.float64)
    half = size // 2
    cells = np.array([large[y : y + half, x : x + half].sum() for y in (0, half) for x in (0, half)])
    with np.errstate(invalid="ignore"):
        return np.asarray(cells / cells.sum())


def pointing_game(
    net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64], layers: Sequence[Layer]
) -> dict[str, dict[Layer, NDArray[np.float64]]]:
    """Score the CAMs of mosaics; the network takes the larger images as they are, because it pools globally.

    Args:
        net: In evaluation mode, in float32.
        images: Shape `(N, 4, H, H, 3)`, uint8, the cells of each mosaic.
        classes: Shape `(N, 4)`, the class of each cell, all different in a mosaic.
        layers: Names of layers.

    Returns:
        For each method and layer the fraction of the CAM of each cell's class that lies in that cell, shape `(N, 4)`,
        0..1; nan if the CAM is zero.
    """
    size = 2 * images.shape[2]
    scores = {method: {layer: np.full(classes.shape, np.nan) for layer in layers} for method in METHODS}
    step = max(1, MAX_PIXELS // size**2)
    for start in tqdm(range(0, len(images), step), desc="pointing game", leave=False, disable=None):
        part = slice(start, start + step)
        cams = gradient_cams(net, assemble(images[part]), classes[part], layers, METHODS)
        for method, by_layer in cams.items():
            for layer, found in by_layer.items():
                scores[method][layer][part] = [
                    [cell_fractions(cam, size)[cell] for cell, cam in enumerate(four)] for four in found
                ]
    return scores


def localize(net: ResNet18, images: NDArray[np.uint8], classes: NDArray[np.int64]) -> Localization:
    """Play the pointing game, and estimate the mean scores; the mosaics are resampled, not their dependent cells.

    Args:
        net: As in `pointing_game`, like `images` and `classes`.
        images: At least one mosaic.
        classes: Of them.
    """
    sizes = layer_sizes(net, images.shape[2])
    layers = [layer for layer in LAYERS if sizes[layer] > 1]
    played = pointing_game(net, images, classes, layers)
    scores: dict[str, dict[Layer, Estimate | None]] = {
        method: {layer: estimate(_mean(found)) for layer, found in by_layer.items()}
        for method, by_layer in played.items()
    }
    size = 2 * images.shape[2]
    null = np.tile(cell_fractions(centered_blob(size), size).mean(), len(images))
    scores[BLOB] = dict.fromkeys(layers, estimate(null))
    different = {image.tobytes() for four in images for image in four}
    return Localization(len(images), len(different), scores, sizes)


def centered_blob(size: int) -> NDArray[np.float32]:
    """Return a Gaussian around the center with a standard deviation of a quarter, `(size, size)`, 0..1."""
    line = np.exp(-0.5 * ((np.arange(size) + 0.5 - size / 2) / (size / 4)) ** 2)
    return np.outer(line, line).astype(np.float32)


def _mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each row without nan; nan if there is nothing else."""
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(scores, axis=1) / known.sum(axis=1))
