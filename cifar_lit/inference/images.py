"""Images in all supported forms: files, folders, PIL images, arrays and tensors."""

import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cifar_lit.data.decode import Images, UnreadableError, read, square
from cifar_lit.data.image_files import SUFFIXES, print_ignored, walk
from cifar_lit.utils.errors import UsageError

Item: TypeAlias = str | Image.Image | Images  # a single image: its path, or itself
ImagesLike: TypeAlias = Union[str, "os.PathLike[str]", Image.Image, NDArray[np.uint8], Tensor, Iterable["ImagesLike"]]


def expand(images: ImagesLike) -> Iterator[Item]:
    """Yield single images.

    Args:
        images: Paths of files or folders, PIL images, uint8 arrays or tensors `(H, W, 3)` or `(N, H, W, 3)`, or an
            iterable of any of these. A folder's images are yielded in the order of their names.

    Raises:
        UsageError: There is no such file, or the images have another type, dtype, shape or range.
    """
    if isinstance(images, (str, os.PathLike)):
        yield from sorted(image_files([os.path.expanduser(images)]), key=lambda file: file.split("/"))
    elif isinstance(images, Image.Image):
        if images.mode == "F":  # of unknown range; convert() would clip it
            raise UsageError("images: PIL images of mode F (floats) are not supported; convert them to uint8 arrays")
        yield images
    elif isinstance(images, (np.ndarray, Tensor)):
        yield from _arrays(images)
    elif isinstance(images, Iterable) and not isinstance(images, (bytes, dict)):
        for image in images:
            yield from expand(image)
    else:
        raise UsageError(
            f"images: got {type(images).__name__}; use paths, PIL images, uint8 arrays or tensors (H, W, 3) or "
            "(N, H, W, 3), or a list of these"
        )


def image_files(paths: Iterable[str], print_others: bool = True) -> Iterator[str]:
    """Yield the files among the paths, and the images in the folders among them in no particular order.

    Args:
        paths: Files and folders.
        print_others: Whether to say which files in the folders are not images.

    Raises:
        UsageError: A path does not exist, or a folder contains no images or cannot be read.
    """
    for path in paths:
        if not os.path.isdir(path):
            if not os.path.exists(path):
                raise UsageError(f"{path}: no such image or folder")
            yield path
            continue
        count, others, named = 0, 0, list[str]()
        try:
            for file in walk(path):
                if file.lower().endswith(SUFFIXES):
                    count += 1
                    yield os.path.join(path, file)
                else:
                    others += 1
                    named = sorted([*named, file])[:4]
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from None
        if not count:
            raise UsageError(f"{path}: this folder contains no images ({', '.join(SUFFIXES)})")
        if print_others:
            print_ignored(path, named, others)


def pixels(item: Item, size: int) -> Images:
    """Return an image as the network takes it, resized and center-cropped as for training: `(size, size, 3)`, uint8.

    Raises:
        UnreadableError: A file cannot be decoded.
    """
    if isinstance(item, str):
        return read(item, size)
    if isinstance(item, np.ndarray):
        return item if item.shape[:2] == (size, size) else square(Image.fromarray(item), size)
    try:
        return square(item.copy(), size)
    except Exception as error:  # Pillow raises many types for corrupt files, which it decodes only now
        raise UnreadableError(f"{item!r}: {error}") from error


def _arrays(images: NDArray[Any] | Tensor) -> Images:
    """Return an array `(N, H, W, 3)`, uint8, of one image or several."""
    is_tensor = isinstance(images, Tensor)
    if isinstance(images, Tensor):
        on_cpu = images.detach().cpu()
        images = (on_cpu.float() if on_cpu.is_floating_point() else on_cpu).numpy()  # NumPy has no bfloat16
    if remedies := [
        remedy for remedy in (_shape_remedy(images, is_tensor), _range_remedy(images, is_tensor)) if remedy
    ]:
        raise UsageError(
            f"images: got {images.dtype} of shape {images.shape}, but must be uint8, 0 to 255, of shape (H, W, 3) or "
            f"(N, H, W, 3); {'; '.join(remedies)}"
        )
    return images if images.ndim == 4 else images[None]


def _shape_remedy(images: NDArray[Any], is_tensor: bool) -> str:
    """Return how to change the shape; empty if it is correct."""
    shape = images.shape
    if images.ndim in (3, 4) and shape[-1] == 3 and 0 not in shape[-3:]:
        return ""
    if images.ndim in (3, 4) and shape[-3] == 3:
        return f"move the channels to the end: images.{'movedim' if is_tensor else 'transpose'}" + (
            "(-3, -1)" if is_tensor else "(1, 2, 0)" if images.ndim == 3 else "(0, 2, 3, 1)"
        )
    if images.ndim in (3, 4) and shape[-1] == 4:
        return "leave out the fourth channel with images[..., :3], or use PIL images, which are drawn on white"
    if images.ndim in (3, 4) and shape[-1] == 1:
        return "repeat the gray channel: " + (
            "images.expand(*images.shape[:-1], 3)" if is_tensor else "images.repeat(3, -1)"
        )
    if images.ndim == 4 and shape[1] == 1:
        return "repeat the gray channel, and move it to the end: images." + (
            "expand(-1, 3, -1, -1).movedim(1, -1)" if is_tensor else "repeat(3, 1).transpose(0, 2, 3, 1)"
        )
    if images.ndim in (2, 3):
        return f"repeat gray images: {'torch' if is_tensor else 'np'}.stack([images] * 3, -1)"
    return "use RGB images, in a list if their sizes differ"


def _range_remedy(images: NDArray[Any], is_tensor: bool) -> str:
    """Return how to change dtype and range; empty if both are correct."""
    if images.dtype == np.uint8:
        return ""
    if not images.size or images.dtype.kind not in "biuf":
        return "convert the values to uint8"
    low, high = images.min(), images.max()
    to_uint8 = ".byte()" if is_tensor else ".astype(np.uint8)"
    if 0 <= low and high <= 1:
        return f"the values go from {low} to {high}: use (images * 255.0).round(){to_uint8}"
    if 0 <= low and high <= 255:
        return f"use images.round(){to_uint8}" if images.dtype.kind == "f" else f"use images{to_uint8}"
    return (
        f"the values go from {low:.4g} to {high:.4g}: scale them to 0..255, and do not standardize them, which the "
        "network does itself"
    )
