"""Decode the image files of a split into one array, in parallel."""

import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from cifar_lit.data.dataset import Images
from cifar_lit.data.decode import DARK, SCALE, UnreadableError, read
from cifar_lit.data.workers import worker_failure
from cifar_lit.utils.errors import RunError

CHUNK_IMAGES = 256  # decoded by a worker at a time, fewer for large images
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Listing:
    """The image files of a split.

    Attributes:
        folder: The folder with one folder per class.
        classes: The class names, sorted.
        files: `<class>/...` of each image, relative to `folder`, sorted by class.
        labels: Shape `(N,)`, int64, indices into `classes`.
    """

    folder: str
    classes: tuple[str, ...]
    files: list[str]
    labels: NDArray[np.int64]


def decode_all(listing: Listing, path: str, image_size: int, num_workers: int, timeout_s: int) -> list[str]:
    """Write the decoded images to an .npy file of shape `(N, H, W, 3)`; return a message for each unreadable file.

    Raises:
        RunError: A worker has died, or has not answered for `timeout_s` seconds.
    """
    files: Any = listing.files  # a list is a map-style dataset; the workers decode in collate_fn
    loader: DataLoader[list[Images | str]] = DataLoader(
        files,
        batch_size=max(1, min(CHUNK_IMAGES, CHUNK_BYTES // (3 * image_size**2))),
        num_workers=num_workers,
        timeout=timeout_s if num_workers else 0,
        collate_fn=partial(_decode_files, listing.folder, image_size),
        generator=torch.Generator(),  # does not advance the global generator, whose state must not depend on the cache
    )
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), image_size, image_size, 3)}
    unreadable: list[str] = []
    brightest = 0
    # Not written through a memory map, where a full disk would kill the process with SIGBUS.
    with (
        open(path, "wb") as file,
        tqdm(
            desc=f"decoding {listing.folder}",
            total=len(files),
            unit=" images",
            mininterval=0.1 if sys.stderr.isatty() else 10.0,  # seconds; few lines in a log file
        ) as bar,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        try:
            for images in loader:
                unreadable += [image for image in images if isinstance(image, str)]
                pixels = [image for image in images if not isinstance(image, str)]
                file.writelines(image.data for image in pixels)
                brightest = max([brightest, *(int(image.max()) for image in pixels)])
                bar.update(len(images))
        except RuntimeError as error:
            if reason := worker_failure(error):
                raise RunError(f"decoding {listing.folder}: {reason}") from error
            raise
    if brightest <= DARK and len(unreadable) < len(files):
        print(f"{listing.folder}: all images are dark, up to {brightest} of 255; {SCALE}", file=sys.stderr)
    return unreadable


def _decode_files(folder: str, image_size: int, files: list[str]) -> list[Images | str]:
    """Return the images, and for an unreadable file the error message."""
    results: list[Images | str] = []
    for file in files:
        try:
            results.append(read(os.path.join(folder, file), image_size))
        except UnreadableError as error:
            results.append(str(error))
    return results
