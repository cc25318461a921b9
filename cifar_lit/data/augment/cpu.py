"""Augmentation with albumentations: pad-and-crop, rotate, flip, cutout; uint8 in, uint8 out."""

import os
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest version at import

import albumentations as A
import cv2

from cifar_lit.data.augment.config import AugmentOptions, first_epoch


# albumentations ships no types, so its classes are Any to mypy, which waives both classes below.
class Rotate(A.ImageOnlyTransform):  # type: ignore[misc]
    """Turn about the centre, bilinear, borders reflected: what albumentations' own does, in a tenth of its time.

    It spends that on boxes and masks, which are not there.
    """

    def __init__(self, degrees: float) -> None:
        """Take the largest angle in either direction."""
        super().__init__(p=1)
        self.degrees = degrees

    def get_params(self) -> dict[str, float]:
        """Draw the angle."""
        return {"angle": self.py_random.uniform(-self.degrees, self.degrees)}

    def apply(self, img: NDArray[np.uint8], angle: float, **params: Any) -> NDArray[np.uint8]:
        """Return a turned copy."""
        height, width = img.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
        turned = cv2.warpAffine(img, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        return turned.astype(np.uint8, copy=False)  # as it is; OpenCV's types only promise numbers


class Cutout(A.ImageOnlyTransform):  # type: ignore[misc]
    """Fill one square, its centre anywhere in the image, so that it may overlap the border (arXiv 1708.04552).

    albumentations' own CoarseDropout keeps its holes inside the image.
    """

    def __init__(self, size: int, fill: Sequence[int], p: float = 1.0) -> None:
        """Take the side in pixels and the colour, 0..255 per channel."""
        super().__init__(p=p)
        self.size = size
        self.fill = tuple(fill)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, int]:
        """Draw the centre."""
        height, width = params["shape"][:2]
        return {"y": self.py_random.randrange(height), "x": self.py_random.randrange(width)}

    def apply(self, img: NDArray[np.uint8], y: int, x: int, **params: Any) -> NDArray[np.uint8]:
        """Return a copy with the square filled."""
        top, left = y - self.size // 2, x - self.size // 2
        img = img.copy()
        img[max(top, 0) : max(top + self.size, 0), max(left, 0) : max(left + self.size, 0)] = self.fill
        return img


class Augmentation:
    """The random changes of training images, as a pure function of (image, key).

    Args:
        options: Which changes.
    """

    def __init__(self, options: AugmentOptions) -> None:
        steps: list[A.BasicTransform] = []
        if options.crop_padding:
            border = cv2.BORDER_REFLECT_101 if options.padding_mode == "reflect" else cv2.BORDER_CONSTANT
            steps.append(A.Pad(options.crop_padding, border_mode=border, p=1))
            steps.append(A.RandomCrop(options.image_size, options.image_size, p=1))
        if options.rotate_degrees:
            steps.append(Rotate(options.rotate_degrees))
        if options.flip and options.flip_mode == "random":
            steps.append(A.HorizontalFlip(p=options.flip))
        self.cutout = Cutout(options.cutout_size, options.color)
        if options.cutout_size:
            steps.append(self.cutout)
        self.options = options
        self.alternating = options.flip if options.flip_mode == "alternate" else 0.0
        self.transform = A.Compose(steps, strict=True)
        self.random = random.Random()
        # Every step above draws from Python's generator alone (a test would notice another), so seeding that
        # one anew for each image is enough, and 20 times cheaper than new generators.
        self.transform.set_random_state(np.random.default_rng(0), self.random)

    def __call__(self, images: NDArray[np.uint8], keys: Iterable[int]) -> NDArray[np.uint8]:
        """Change each image.

        Args:
            images: Shape `(B, H, W, 3)`, uint8; not written to.
            keys: The `augmentation_key` of each: equal keys give equal changes, whatever came before.
        """
        changed = np.empty_like(images)
        for position, key in enumerate(keys):
            epoch, first = first_epoch(key)
            # As likely as a flip at the end: the other changes are the same from left and from right.
            image = images[position, :, ::-1] if self._alternated(epoch, first) else images[position]
            self.cutout.size = self.options.cutout_side(epoch)
            self.random.seed(key)
            changed[position] = self.transform(image=image)["image"]
        return changed

    def _alternated(self, epoch: int, first: int) -> bool:
        if not self.alternating:
            return False
        self.random.seed(first)
        return (self.random.random() < self.alternating) ^ (epoch % 2 == 1)
