"""Image files to uint8 arrays: any size and format in, one size out, in parallel."""

import os
import sys
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

CHUNK = 256  # images decoded in one go by one process, or fewer where they are large
CHUNK_BYTES = 1 << 24
SMALL = 1 << 16  # bytes of a file
Images = NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The images of one split.

    Attributes:
        folder: Where the class folders are.
        classes: Their names, sorted.
        files: The images, class after class, relative to `folder`, with `/` between the parts.
        labels: Shape `(N,)`, int64, positions in `classes`.
    """

    folder: str
    classes: tuple[str, ...]
    files: list[str]
    labels: NDArray[np.int64]


def rate() -> float:
    """Return the seconds between two states of a progress bar: few where it is a log file's line, not a screen's."""
    return 0.1 if sys.stderr.isatty() else 10.0


def decode_all(listing: Listing, path: str, image_size: int, num_workers: int) -> list[str]:
    """Write the decoded images to an .npy file, and return a line for each unreadable one."""
    import torch
    from torch.utils.data import DataLoader

    chunks: Any = Chunks(listing, image_size)  # a Dataset in all but name: that would import torch above
    loader: DataLoader[tuple[Images, list[str]]] = DataLoader(
        chunks,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # its own: a first run must not draw from the seeded global one
    )
    shape = (len(listing.files), image_size, image_size, 3)
    unreadable: list[str] = []
    # Written one after the other, not through a memory map: there, a full disk would kill the process.
    with (
        open(path, "wb") as file,
        tqdm(desc=f"decoding {listing.folder}", total=len(listing.files), unit=" images", mininterval=rate()) as bar,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for images, failures in loader:
            file.write(images.tobytes())
            unreadable += failures
            bar.update(len(images))
    return unreadable


class Chunks:
    """A map-style data set whose items are the decoded images of several files, and the failures."""

    def __init__(self, listing: Listing, image_size: int) -> None:
        """Cut a listing into chunks."""
        self.listing = listing
        self.image_size = image_size
        self.size = max(1, min(CHUNK, CHUNK_BYTES // (3 * image_size**2)))

    def __len__(self) -> int:
        """Return the number of chunks."""
        return -(-len(self.listing.files) // self.size)

    def __getitem__(self, index: int) -> tuple[Images, list[str]]:
        """Return images of shape `(n, H, W, 3)`, uint8, and a line for each unreadable one."""
        files = self.listing.files[index * self.size : (index + 1) * self.size]
        images = np.zeros((len(files), self.image_size, self.image_size, 3), np.uint8)
        failures = []
        for image, file in zip(images, files, strict=True):
            try:
                image[:] = read(os.path.join(self.listing.folder, file), self.image_size)
            except UnreadableError as error:
                failures.append(str(error))
        return images, failures


class UnreadableError(ValueError):
    """A file is no image, is broken, or unpacks to a dangerous size; the text names file and reason."""


def read(path: str, size: int) -> Images:
    """Return what `decode` does, or raise UnreadableError, whatever is wrong with the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return decode(path, size)
        except UnidentifiedImageError:
            raise UnreadableError(f"{path}: no PNG, JPEG or WebP image") from None
        except Exception as error:  # broken files make Pillow raise many kinds
            reason = getattr(error, "strerror", None) or error or repr(error)
            raise UnreadableError(f"{path}: {reason}") from error


def decode(path: str, size: int) -> Images:
    """Return a image, upright and on white, shape `(size, size, 3)`, uint8, RGB.

    It is resized so that it covers the square, and its middle is cut out.
    """
    image = _small_jpeg(path)
    if image is None:
        image = np.asarray(_any_image(path, size))
    if image.shape != (size, size, 3):
        image = np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.LANCZOS))
    return image


def _small_jpeg(path: str) -> Images | None:
    """Read a small JPEG: OpenCV gives the same pixels as Pillow in a fifth of the time.

    None stands for any other file and for a truncated one, of which Pillow will say what is wrong with it.
    A small file cannot hold a image of dangerous size: 8 x 8 pixels need at least a bit.
    """
    with open(path, "rb") as file:
        data = file.read(SMALL)
    if len(data) == SMALL or not data.startswith(b"\xff\xd8"):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # upright, blue first
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _any_image(path: str, size: int) -> Image.Image:
    """Read a image, upright, on white, RGB, and a JPEG at no more than is needed of its size."""
    with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
        image.draft(None, (2 * size, 2 * size))  # a half, a quarter, ... of the size, but at least this
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip
            return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return image.convert("RGB")


def _unchanged(item: T) -> T:
    """Keep a chunk as it is, where the loader would make tensors."""
    return item
