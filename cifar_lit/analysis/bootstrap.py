"""Estimates with 95% intervals, and means with those of the percentile bootstrap."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A score with its 95% interval.

    Attributes:
        value: The score, such as a mean.
        low: The lower end of the interval.
        high: The upper end.
        count: Number of images or other values that it was computed from.
    """

    value: float
    low: float
    high: float
    count: int

    def against(self, value: float) -> int:
        """Return 1 if the interval lies above a value, -1 if it lies below, 0 if it contains it."""
        return int(self.low > value) - int(self.high < value)


def as_estimate(values: dict[str, Any]) -> Any:
    """Return the estimate with these values, or the values if they are others; an `object_hook` of json."""
    return Estimate(**values) if values.keys() == Estimate.__dataclass_fields__.keys() else values


def estimate(values: NDArray[Any], seed: int = 0) -> Estimate | None:
    """Estimate a mean from independent values.

    Args:
        values: Shape `(N,)`; nan are left out.
        seed: Of the resampling, so that the same values give the same interval.

    Returns:
        None if there is no value.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    drawn = np.random.default_rng(seed).integers(0, len(known), (RESAMPLES, len(known)), dtype=np.int32)
    low, high = np.percentile(known[drawn].mean(axis=1), (2.5, 97.5))
    return Estimate(float(known.mean()), float(low), float(high), len(known))
