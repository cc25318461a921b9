"""What figures and tables of misclassified images need."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.predictions import Predictions


@dataclass(frozen=True)
class ErrorResults(ABC):
    """Predictions for test images, and the images and CAMs of the misclassified ones.

    Attributes:
        classes: The class names; labels are positions in it.
        weights: Which weights were evaluated, such as `best weights, epoch 12`.
        test: Predictions for the test images.
    """

    classes: tuple[str, ...]
    weights: str
    test: Predictions

    @property
    def files(self) -> Sequence[str] | None:
        """File names of the test images, by index; None if they are no files."""
        return None

    @property
    @abstractmethod
    def default_layer(self) -> str:
        """Name of the layer to explain unless another one is given."""

    @abstractmethod
    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of misclassified rows of `test`: `(N, H, W, 3)`, uint8."""

    @abstractmethod
    def cams(self, rows: NDArray[np.int64], layers: Sequence[Any], method: str) -> dict[Any, NDArray[np.float32]]:
        """Return the CAMs for the true and the predicted class; see `activation_maps`.

        Args:
            rows: Misclassified rows of `test`.
            layers: Names of layers.
            method: As in `activation_maps`.

        Returns:
            For each layer an array `(N, 2, h, w)`.
        """
