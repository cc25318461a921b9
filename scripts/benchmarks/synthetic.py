"""Synthetic images, used where there are no real ones."""

from pathlib import Path

import cv2
import numpy as np


def generate(root: Path, train: int, test: int, size: int = 32) -> None:
    """Write JPEG files of smooth noise in ten classes of equal size, as train/<class>/* and test/<class>/*."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label in range(10):
            (root / split / f"class{label}").mkdir(parents=True)
        for i in range(count):
            coarse = rng.integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8)
            image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / split / f"class{i % 10}" / f"{i:06}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 75])
