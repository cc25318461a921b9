"""Images whose label is probably incorrect."""

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.predictions import Predictions


def find_label_issues(predictions: Predictions) -> NDArray[np.int64]:
    """Return rows with a probably incorrect label by confident learning (arXiv 1911.00068), the most probable first.

    An image is a confident member of each class whose probability reaches the mean over the images with that label.
    Its label is an issue if the most probable of these classes is another one. Issues are sorted by the normalized
    margin: the probability of the label minus the highest other one.
    """
    probabilities, labels = predictions.probabilities, predictions.labels
    num_classes = probabilities.shape[1]
    count = np.bincount(labels, minlength=num_classes)
    total = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=num_classes)
    threshold = np.divide(total, count, out=np.full(num_classes, np.inf), where=count > 0)
    confident = np.where(probabilities >= threshold, probabilities, -1.0)
    rows = np.flatnonzero((confident.max(axis=1) >= 0) & (confident.argmax(axis=1) != labels))
    return rows[np.argsort(predictions.margins[rows], kind="stable")]
