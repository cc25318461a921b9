"""Augmentation with albumentations, for the worker processes: pad and crop, rotate, flip, cutout on uint8 images."""

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import asks PyPI for the latest version

import albumentations as A
import cv2

from cifar_lit.data.augment.config import AugmentConfig, fill_color
from cifar_lit.data.augment.extra import build


class Rotate(A.ImageOnlyTransform):  # type: ignore[misc]  # albumentations has no type annotations
    """Rotate about the center, bilinear, with reflected borders.

    Gives the pixels of `A.Rotate` in a tenth of its time, most of which goes into bounding boxes and masks.
    """

    def __init__(self, degrees: float) -> None:
        """Set the largest angle in either direction."""
        super().__init__(p=1)
        self.degrees = degrees

    def get_params(self) -> dict[str, float]:
        """Draw the angle."""
        return {"angle": self.py_random.uniform(-self.degrees, self.degrees)}

    def apply(self, img: NDArray[np.uint8], angle: float, **params: Any) -> NDArray[np.uint8]:
        """Return a rotated copy."""
        height, width = img.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
        rotated = cv2.warpAffine(img, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        return rotated.astype(np.uint8, copy=False)  # for mypy: OpenCV's stubs promise any dtype


def cutout(image: NDArray[np.uint8], y: int, x: int, size: int, color: Sequence[int]) -> None:
    """Fill a square with center (x, y), which may overlap the border, in place (arXiv 1708.04552)."""
    top, left = y - size // 2, x - size // 2
    image[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = color


class Augmentation:
    """Random augmentation as a pure function of (image, key).

    Args:
        config: The transforms and their options.
        mean: Channel means in 0..1, the cutout's color.
    """

    def __init__(self, config: AugmentConfig, mean: Sequence[float]) -> None:
        self.config = config
        self.color = fill_color(mean)
        # Our steps draw from Python's generator only. Seeding it for each image is 20 times faster than new generators.
        self.random = random.Random()
        self.transforms: dict[int, A.Compose] = {}  # by the size of the crop

    def _transform(self, size: int) -> A.Compose:
        if size not in self.transforms:
            config, steps = self.config, list[A.BasicTransform]()
            if config.crop_padding:
                border = cv2.BORDER_REFLECT_101 if config.padding_mode == "reflect" else cv2.BORDER_CONSTANT
                steps.append(A.Pad(config.crop_padding, border_mode=border, p=1))
            if config.crop_padding or size < config.image_size:
                steps.append(A.RandomCrop(size, size, p=1))
            if config.rotate_degrees:
                steps.append(Rotate(config.rotate_degrees))
            if config.flip and config.flip_mode == "random":
                steps.append(A.HorizontalFlip(p=config.flip))
            steps += build(config.extra_transforms or [], size)
            self.transforms[size] = A.Compose(steps, strict=True)
            self.transforms[size].set_random_state(np.random.default_rng(0), self.random)
        return self.transforms[size]

    def __call__(self, images: NDArray[np.uint8], keys: Sequence[int]) -> NDArray[np.uint8]:
        """Return augmented copies.

        Args:
            images: Shape `(B, H, W, 3)`, uint8.
            keys: The `augmentation_key` of each image, all of one epoch; the same key always gives the same
                augmentation.

        Returns:
            Shape `(B, S, S, 3)`, uint8, of the size S of the epoch.
        """
        epoch = keys[0] >> 32 & 0xFFFFFFFF
        size = self.config.size_at(epoch)
        transform = self._transform(size)
        augmented = np.empty((len(images), size, size, 3), np.uint8)
        for position, key in enumerate(keys):
            # Crop and rotation are symmetric, so flipping before them is equivalent to flipping after them.
            flipped = self.config.flip_mode == "alternate" and self._alternate(key, epoch)
            image = images[position, :, ::-1] if flipped else images[position]
            self.random.seed(key)
            if self.config.extra_transforms:  # they may draw from NumPy's generator
                transform.set_random_state(np.random.default_rng(key), self.random)
            augmented[position] = transform(image=image)["image"]
            if self.config.cutout_size:  # not A.CoarseDropout, whose squares never overlap the border
                y, x = (self.random.randrange(size) for _ in range(2))
                cutout(augmented[position], y, x, self.config.cutout_size_at(epoch), self.color)
        return augmented

    def _alternate(self, key: int, epoch: int) -> bool:
        self.random.seed(key ^ epoch << 32)  # the image's key in epoch 0
        return (self.random.random() < self.config.flip) ^ (epoch % 2 == 1)
