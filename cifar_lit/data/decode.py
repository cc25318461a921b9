"""Decode an image file of any size into a uint8 array of a given size."""

import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_lit.utils.files import placeholder

Images = NDArray[np.uint8]
DARK = 64  # if no value is above it, the images were perhaps scaled wrongly; 12 bits in a 16-bit file give at most 16
SCALE = "12-bit values in 16-bit files must be multiplied by 16"


class UnreadableError(ValueError):
    """A file is not an image, is corrupt, or decodes to a dangerous size; the message has its path and the reason."""


def read(path: str, size: int) -> Images:
    """Decode an image like `decode`.

    Raises:
        UnreadableError: The file cannot be decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return decode(path, size)
        except UnidentifiedImageError:
            problem = placeholder(path) or "not a PNG, JPEG or WebP image; convert it"
            raise UnreadableError(f"{path}: {problem}") from None
        except Exception as error:  # Pillow raises many types for corrupt files
            reason = getattr(error, "strerror", None) or error or repr(error)
            raise UnreadableError(f"{path}: {reason}") from error


def decode(path: str, size: int) -> Images:
    """Decode an image file like `square`; a large JPEG at reduced size."""
    with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
        image.draft(None, (2 * size, 2 * size))  # a JPEG at 1/2, 1/4 or 1/8 of its size, but not below 2 * size
        return square(image, size)


def square(image: Image.Image, size: int) -> Images:
    """Return an image, upright, on a white background, resized to cover a square and center-cropped.

    Args:
        image: Of any mode and size; may be changed.
        size: Height and width of the result.

    Returns:
        Shape `(size, size, 3)`, uint8, RGB.
    """
    ImageOps.exif_transpose(image, in_place=True)
    image = _to_rgb(image)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grayscale, which convert() would clip
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
