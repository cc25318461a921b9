"""Hold pictures out of a data set so that each class keeps its share."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_split(labels: Indices, size: int, seed: int) -> tuple[Indices, Indices]:
    """Return the positions of the rest and of `size` held-out labels, both sorted.

    Every class contributes in proportion to its count, to within one (of many classes with a handful each, roughly).
    The same arguments give the same split.

    Args:
        labels: Shape `(N,)`, int64.
        size: How many to hold out, in 0..N.
        seed: Chooses which ones, 0 or more.

    Returns:
        Two int64 arrays of shapes `(N - size,)` and `(size,)`, disjoint and together 0..N-1.

    Raises:
        ValueError: `size` is outside 0..N.
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"cannot hold {size} of {len(labels)} out")
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class after class, at random within each
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.arange(len(labels)) - np.repeat(starts, counts)
    quantiles = (ranks + 0.5) / np.repeat(counts, counts)  # spreads each class evenly over 0..1
    chosen = np.argsort(quantiles, kind="stable")[:size]
    return np.sort(np.delete(order, chosen)), np.sort(order[chosen])
