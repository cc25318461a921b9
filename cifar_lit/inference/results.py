"""Results of a trained network for images: predictions, and the evidence for them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lit.models.resnet import Layer
from cifar_lit.report.drawing import CAM_OPACITY, overlay


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images.

    Attributes:
        class_names: The names of the C classes.
        probabilities: Shape `(N, C)`, float32, each row sums to 1.
        files: The path of each image; None for an image that was not given as a file.
    """

    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    files: tuple[str | None, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.probabilities)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Shape `(N,)`, the most probable classes, as indices into `class_names`."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the most probable classes."""
        return tuple(self.class_names[index] for index in self.predicted)

    @property
    def confidences(self) -> NDArray[np.float32]:
        """Shape `(N,)`, the probability of the most probable class, 0..1."""
        highest: NDArray[np.float32] = self.probabilities.max(axis=1)
        return highest

    @property
    def margins(self) -> NDArray[np.float32]:
        """Shape `(N,)`, the highest probability minus the second, 0..1."""
        two = np.partition(self.probabilities, -2, axis=1)[:, -2:]
        return two[:, 1] - two[:, 0]

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the names and probabilities of the k most probable classes of each image, the most probable first."""
        orders = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.class_names[index], float(row[index])) for index in order]
            for row, order in zip(self.probabilities, orders, strict=True)
        ]


@dataclass(frozen=True)
class Explanations:
    """The evidence for one class in each of N images, by L layers.

    Attributes:
        predictions: The predictions for the images.
        images: Shape `(N, S, S, 3)`, uint8, the images as the network sees them.
        explained: The name of the explained class of each image.
        layers: The names of the layers.
        method: The method of the grad-cam package.
        cams: Shape `(N, L, S, S)`, float32, 0..1, 1 where the evidence is strongest. A CAM without
            contrast is constant.
        flat: For each image and layer why the CAM is constant, such as "no evidence"; empty if it is not.
    """

    predictions: Predictions
    images: NDArray[np.uint8]
    explained: tuple[str, ...]
    layers: tuple[Layer, ...]
    method: str
    cams: NDArray[np.float32]
    flat: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def overlays(self, opacity: float = CAM_OPACITY) -> NDArray[np.uint8]:
        """Draw the CAMs over the images, which are enlarged by an integer factor to at least 160 px.

        Args:
            opacity: Of the CAMs, 0..1.

        Returns:
            Shape `(N, L, P, P, 3)`, uint8.
        """
        drawn = [
            np.stack([overlay(image, cam, opacity) for cam in cams])
            for image, cams in zip(self.images, self.cams, strict=True)
        ]
        return np.stack(drawn)

    def overlay_images(self, opacity: float = CAM_OPACITY) -> list[list[Image.Image]]:
        """Return the overlays as PIL images, for each image a list with one for each layer."""
        return [[Image.fromarray(drawn) for drawn in per_layer] for per_layer in self.overlays(opacity)]
