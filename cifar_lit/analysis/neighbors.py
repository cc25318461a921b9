"""The training images nearest to an image in the features of a network."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 512


def nearest(
    features: NDArray[np.float32], known: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the most similar rows of `known` for each feature vector, by the cosine, the most similar first.

    Args:
        features: Shape `(N, D)`.
        known: Shape `(T, D)`.
        k: Number of rows to return, at most T.

    Returns:
        Rows and their cosines, both `(N, min(k, T))`.
    """
    queries, rows = (one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in (features, known))
    found = [np.empty((0, min(k, len(known))), np.int64)]
    cosines = [np.empty((0, min(k, len(known))), np.float32)]
    for start in range(0, len(queries), BLOCK):
        products = queries[start : start + BLOCK] @ rows.T
        order = np.argsort(-products, axis=1, kind="stable")[:, :k]
        found.append(order)
        cosines.append(np.take_along_axis(products, order, axis=1))
    return np.concatenate(found), np.concatenate(cosines)
