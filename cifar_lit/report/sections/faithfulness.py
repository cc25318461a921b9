"""Whether the CAMs can be trusted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.faithfulness import cascading_randomization, road
from cifar_lit.analysis.gradcam import upscale
from cifar_lit.models.resnet import LAYERS, Layer
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options


@dataclass(frozen=True)
class Faithfulness:
    """Scores of CAMs, for the true and the predicted class; CAMs without contrast have none.

    Attributes:
        num_images: How many images have scored CAMs.
        road: ROAD of each CAM of each layer.
        means: Their mean for each layer, and over how many CAMs.
        layer: The layer of the sanity check.
        randomization: Mean rank correlation after each of its stages, and over how many CAMs.
    """

    num_images: int
    road: dict[Layer, list[list[float | None]]]
    means: dict[Layer, list[tuple[float, int]]]
    layer: Layer
    randomization: dict[str, tuple[float, int]]


def section(results: RunResults, options: Options) -> Faithfulness:
    """Score the CAMs of the most wrong images."""
    test, size = results.test, results.data.image_size
    layer = results.default_layer
    rows = test.errors[: min(options.num_road, options.num_cams)]
    if not len(rows):
        return Faithfulness(0, {}, {}, layer, {})
    images, classes = results.images(rows), test.target_classes(rows)
    cams = results.cams(rows, LAYERS, options.method)
    scored = road(
        results.network,
        np.concatenate([images.repeat(2, axis=0)] * len(LAYERS)),
        np.tile(classes.ravel(), len(LAYERS)),
        np.stack([upscale(cam, size) for name in LAYERS for pair in cams[name] for cam in pair]),
    ).reshape(len(LAYERS), len(rows), 2)
    stages = cascading_randomization(results.network, images, classes[:, 1], layer, options.method)
    return Faithfulness(
        len(rows),
        {name: [_rounded(pair) for pair in pairs] for name, pairs in zip(LAYERS, scored, strict=True)},
        {name: [_mean(column) for column in pairs.T] for name, pairs in zip(LAYERS, scored, strict=True)},
        layer,
        {stage: _mean(correlations) for stage, correlations in stages.items()},
    )


def _rounded(values: NDArray[np.float32]) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 3) for value in values]


def _mean(scores: NDArray[Any]) -> tuple[float, int]:
    """Return the mean of the scores that are not nan, and their number."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else np.nan, len(known)
