"""Temperature scaling (arXiv 1706.04599): fit it to validation images, and apply it."""

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.predictions import Predictions
from cifar_lit.models.temperature import Temperature

Floats = NDArray[np.float64]
MIN_IMAGES = 20  # with fewer the interval spans orders of magnitude


def fit(predictions: Predictions) -> Temperature | None:
    """Return the temperature with the smallest loss; None if there is no such, see `why_none`.

    The loss is convex in 1 / T, so its derivative has one root. The interval is that of an M-estimator, from the
    variance of the derivative over the images and its slope (White 1982), symmetric for log T.
    """
    from scipy.optimize import brentq  # takes half a second to import

    if why_none(predictions):
        return None
    rows, logits = np.arange(len(predictions)), predictions.log_probabilities

    def moments(inverse: float) -> tuple[Floats, Floats]:
        """Return the derivative of each image's loss by 1 / T, and the second derivative."""
        probabilities = np.exp(_log_softmax(logits * inverse))
        mean = (probabilities * logits).sum(1)
        return mean - logits[rows, predictions.labels], (probabilities * (logits - mean[:, None]) ** 2).sum(1)

    def derivative(inverse: float) -> float:
        return float(moments(inverse)[0].mean())

    low, high = 1.0, 1.0
    while derivative(low) > 0:
        low /= 2
    while derivative(high) < 0:
        high *= 2
    inverse = float(brentq(derivative, low, high, xtol=1e-12)) if low < high else low
    first, second = moments(inverse)
    error = 1.96 * np.sqrt((first**2).mean() / len(predictions)) / second.mean() / inverse  # of log T
    return Temperature(1 / inverse, float(np.exp(-error) / inverse), float(np.exp(error) / inverse), len(predictions))


def why_none(predictions: Predictions | None) -> str:
    """Return why no temperature can be fitted; empty if one can be."""
    if predictions is None or not len(predictions):
        return "there are no validation images for it (data.val_size)"
    if len(predictions) < MIN_IMAGES:
        return f"it needs {MIN_IMAGES} validation images or more (data.val_size), and there are {len(predictions)}"
    logits = predictions.log_probabilities
    true = logits[np.arange(len(predictions)), predictions.labels]
    if (true >= logits.max(1)).all():
        return "all validation images are classified correctly, so the loss has no minimum"
    if true.mean() <= logits.mean():
        return "on the validation images the network is no better than chance, so the loss has no minimum"
    return ""


def apply(predictions: Predictions, temperature: float) -> Predictions:
    """Return the predictions after division of the logits by the temperature, without features."""
    scaled = _log_softmax(predictions.log_probabilities / temperature)
    return Predictions(predictions.indices, predictions.labels, scaled)


def _log_softmax(logits: Floats) -> Floats:
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
