"""Near-duplicates between training and test images, found in the pixels: no network is needed.

Pairs are searched by the correlation of gray 16 x 16 px images without their low frequencies, which alone make any
two photos of sky above land alike, and verified at 32 px, where one of them may be shifted by up to 3 px. Training
images are compared as they are and mirrored.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
SIZE_PX = 32  # of the compared images
BLUR_PX = 2.0  # standard deviation; what remains after subtraction of the blurred image is compared
SHIFT_PX = 3
CANDIDATES = 5  # training images for each test image and orientation, of at least MIN_CANDIDATE
MIN_CANDIDATE = 0.4
# Among the first 1,000 test images of CIFAR-10, inspected by eye: see docs/report.md.
MIN_SIMILARITY = 0.7
MIN_CONTRAST = 1.0  # gray levels; flatter images have nothing to compare
BLOCK = 2048


@dataclass(frozen=True)
class Duplicates:
    """The most similar training image of each of K test images, the most similar pairs first.

    Attributes:
        test: Shape `(K,)`, int64, positions in the test split.
        train: Shape `(K,)`, int64, positions in the training split.
        similarity: Shape `(K,)`, correlation, MIN_SIMILARITY..1.
        mirrored: Shape `(K,)`, whether the training image is the mirrored one.
        exact: Shape `(K,)`, whether all pixels are equal.
    """

    test: NDArray[np.int64]
    train: NDArray[np.int64]
    similarity: NDArray[np.float64]
    mirrored: NDArray[np.bool_]
    exact: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.test)


def find(test: NDArray[np.uint8], indices: NDArray[np.int64], train: NDArray[np.uint8]) -> Duplicates:
    """Compare test images with all training images.

    Args:
        test: The images of the test split, `(N, H, W, 3)`, uint8.
        indices: Shape `(M,)`, int64, which of them to compare.
        train: The images of the training split, `(T, H, W, 3)`, uint8.
    """
    same: dict[bytes, int] = {}
    for position in range(len(train)):
        same.setdefault(_hash(train[position]), position)
    known = _descriptors(train, np.arange(len(train)), mirrored=False)
    pairs: list[tuple[float, int, int, bool, bool]] = []
    for start in range(0, len(indices), BLOCK):
        part = indices[start : start + BLOCK]
        candidates = [_candidates(_descriptors(test, part, mirrored), known) for mirrored in (False, True)]
        for row, index in enumerate(part.tolist()):
            equal = same.get(_hash(test[index]))
            if equal is not None:
                pairs.append((1.0, index, equal, False, True))
                continue
            best = max(
                (
                    (_similarity(test[index], train[position], mirrored), index, position, mirrored, False)
                    for mirrored, found in zip((False, True), candidates, strict=True)
                    for position in found[row]
                ),
                default=(0.0, 0, 0, False, False),
            )
            if best[0] >= MIN_SIMILARITY:
                pairs.append(best)
    pairs.sort(key=lambda pair: (-pair[0], pair[1]))
    similarity, first, second, mirror, exact = zip(*pairs, strict=True) if pairs else ((),) * 5
    return Duplicates(
        np.array(first, np.int64),
        np.array(second, np.int64),
        np.array(similarity, np.float64),
        np.array(mirror, np.bool_),
        np.array(exact, np.bool_),
    )


def read_csv(path: Path) -> Duplicates | None:
    """Read the pairs from `near_duplicates.csv`; None if there is no such file."""
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    first, second = (np.array([int(row[name]) for row in rows], np.int64) for name in ("test_index", "train_index"))
    mirrored, exact = (np.array([row[name] == "True" for row in rows], np.bool_) for name in ("mirrored", "exact"))
    return Duplicates(first, second, np.array([float(row["similarity"]) for row in rows]), mirrored, exact)


def _hash(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def _detail(image: NDArray[np.uint8]) -> Floats:
    """Return the gray image without its low frequencies, `(32, 32)`."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if gray.shape != (SIZE_PX, SIZE_PX):
        shrinks = gray.shape[0] > SIZE_PX
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        gray = cv2.resize(gray, (SIZE_PX, SIZE_PX), interpolation=interpolation).astype(np.float32, copy=False)
    detail: Floats = (gray - cv2.GaussianBlur(gray, (0, 0), BLUR_PX)).astype(np.float32)
    return detail


def _descriptors(images: NDArray[np.uint8], indices: NDArray[np.int64], mirrored: bool) -> torch.Tensor:
    """Return vectors of length 1 whose product is the correlation, `(N, 256)`; of length 0 for flat images."""
    half = SIZE_PX // 2
    small = np.empty((len(indices), half, half), np.float32)
    for row, index in enumerate(indices.tolist()):
        small[row] = _detail(images[index]).reshape(half, 2, half, 2).mean(axis=(1, 3))
    vectors = small[:, :, :: -1 if mirrored else 1].reshape(len(small), -1)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return torch.from_numpy(np.where(norms > 0, vectors / np.maximum(norms, 1e-6), 0))


def _candidates(queries: torch.Tensor, known: torch.Tensor) -> list[list[int]]:
    """Return the most similar rows of `known` for each query."""
    values = torch.empty(len(queries), 0)
    found = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(known), 4 * BLOCK):  # a block of the products fits into the memory
        top = torch.topk(queries @ known[start : start + 4 * BLOCK].T, min(CANDIDATES, len(known) - start))
        values, found = torch.cat([values, top.values], 1), torch.cat([found, top.indices + start], 1)
        best = torch.topk(values, min(CANDIDATES, values.shape[1]))
        values, found = best.values, found.gather(1, best.indices)
    kept = (values >= MIN_CANDIDATE).tolist()
    return [[one for one, keep in zip(*row, strict=True) if keep] for row in zip(found.tolist(), kept, strict=True)]


def _similarity(test: NDArray[np.uint8], train: NDArray[np.uint8], mirrored: bool) -> float:
    """Return the highest correlation of the inner part of one image with the other, over all shifts, -1..1."""
    inner = _detail(test)[SHIFT_PX:-SHIFT_PX, SHIFT_PX:-SHIFT_PX]
    whole = _detail(train)
    if min(inner.std(), whole.std()) < MIN_CONTRAST:
        return -1.0
    if mirrored:
        whole = np.ascontiguousarray(whole[:, ::-1])
    return float(cv2.matchTemplate(whole, np.ascontiguousarray(inner), cv2.TM_CCOEFF_NORMED).max())
