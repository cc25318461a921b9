"""Accuracy on slices of the images: by brightness, contrast, sharpness and colorfulness, in quintiles."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.scores import accuracy_interval

PROPERTIES = ("brightness", "contrast", "sharpness", "colorfulness")
QUANTILES = 5
LEVEL = 0.05  # of the adjusted p-value


@dataclass(frozen=True)
class Slice:
    """The images with one property in one range.

    Attributes:
        property: One of PROPERTIES.
        number: From 1, the lowest values, to QUANTILES; numbers are missing where many images have the same value.
        low: Smallest value in the slice.
        high: Largest one.
        images: Number of images.
        accuracy: Fraction of correct predictions, 0..1.
        interval: Its 95% interval (Wilson).
        p_value: Of Fisher's exact test against all other images, adjusted for the number of slices (Holm 1979), 0..1.
        weak: Whether the accuracy is below that of the others and the adjusted p-value below 0.05.
    """

    property: str
    number: int
    low: float
    high: float
    images: int
    accuracy: float
    interval: tuple[float, float]
    p_value: float
    weak: bool


def measure(image: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Return the PROPERTIES of an RGB image `(H, W, 3)`, for values in 0..255.

    Brightness and contrast are mean and standard deviation of the gray values, sharpness is the variance of their
    Laplacian (Pech-Pacheco et al. 2000), colorfulness is that of Hasler and Suesstrunk (2003).
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    red, green, blue = np.moveaxis(image.astype(np.float64), 2, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])  # red-green and yellow-blue
    spread, center = np.hypot(*opponents.std(axis=(1, 2))), np.hypot(*opponents.mean(axis=(1, 2)))
    sharpness = cv2.Laplacian(gray, cv2.CV_64F).var()
    return float(gray.mean()), float(gray.std()), float(sharpness), float(spread + 0.3 * center)


def find(images: NDArray[np.uint8], correct: NDArray[np.bool_]) -> list[Slice]:
    """Return the slices of each property that has more than one value.

    Args:
        images: Shape `(M, H, W, 3)`, uint8, RGB.
        correct: Shape `(M,)`, whether each is classified correctly.
    """
    from scipy.stats import fisher_exact  # takes half a second to import

    values = np.array([measure(image) for image in images])
    found: list[Slice] = []
    for name, column in zip(PROPERTIES, values.T.round(6), strict=True):  # gray images differ by rounding errors only
        edges = np.quantile(column, np.arange(1, QUANTILES) / QUANTILES)
        number = np.searchsorted(edges, column)  # equal values are in one slice
        if len(np.unique(number)) == 1:
            continue
        for one in np.unique(number):
            inside = number == one
            hits, size = int(correct[inside].sum()), int(inside.sum())
            others = int(correct.sum()) - hits, len(correct) - size
            table = [[hits, size - hits], [others[0], others[1] - others[0]]]
            found.append(
                Slice(
                    name,
                    int(one) + 1,
                    float(column[inside].min()),
                    float(column[inside].max()),
                    size,
                    hits / size,
                    accuracy_interval(hits, size),
                    float(fisher_exact(table).pvalue),
                    hits / size < others[0] / others[1],
                )
            )
    adjusted = holm(np.array([one.p_value for one in found]))
    return [
        Slice(**{**vars(one), "p_value": float(p), "weak": bool(one.weak and p < LEVEL)})
        for one, p in zip(found, adjusted, strict=True)
    ]


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values `(N,)` so that the chance of any false rejection stays below the level (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)), 1)
    return adjusted
