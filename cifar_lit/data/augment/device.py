"""The augmentation of augment.py for whole batches on any device: pad-and-crop, rotate, flip, cutout as pure functions.

The images wait as words, one int32 a pixel, so that moving a pixel moves one number instead of three.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cifar_lit.data.augment.config import AugmentOptions, PaddingMode

FLIP = 3  # the place of the flip's number among those of a image


def pack(images: Tensor) -> Tensor:
    """Map uint8 images `(B, H, W, 3)` to words `(B, H, W)`, int32: red in the lowest byte, then green, then blue."""
    red, green, blue = images.int().unbind(-1)
    return red | green << 8 | blue << 16


def unpack(words: Tensor) -> Tensor:
    """Map words `(B, H, W)` to uint8 planes `(B, 3, H, W)`."""
    return torch.stack([(words >> shift).to(torch.uint8) for shift in (0, 8, 16)], dim=1)


def crop_and_flip(
    words: Tensor, tops: Tensor, lefts: Tensor, flipped: Tensor, padding: int, border: PaddingMode = "constant"
) -> Tensor:
    """Add a border, cut a window of the old size out of it, and mirror some images from left to right.

    Args:
        words: Shape `(B, H, W)`, int32.
        tops: Shape `(B,)`, int32, first row of the window in the bordered image, 0 to 2 * padding.
        lefts: Shape `(B,)`, int32, first column of it, in the same range.
        flipped: Shape `(B,)`, bool.
        padding: Pixels of the border on each side.
        border: Black, or the image reflected without its border pixel.
    """
    count, height, width = words.shape
    across = torch.arange(width, dtype=torch.int32, device=words.device)
    down = torch.arange(height, dtype=torch.int32, device=words.device)
    columns = torch.where(flipped[:, None], across.flip(0), across) + lefts[:, None]  # (B, W), of the bordered image
    rows = down + tops[:, None]  # (B, H)
    if border == "reflect":  # nothing need be added to find what lies there
        columns, rows = _reflected(columns - padding, width), _reflected(rows - padding, height)
    else:
        words = F.pad(words, (padding,) * 4)
    first = torch.arange(count, dtype=torch.int32, device=words.device)[:, None] * words.shape[1]
    # (B, H, W), positions among all pixels of the batch
    source = ((rows + first) * words.shape[2])[:, :, None] + columns[:, None, :]
    return words.reshape(-1).index_select(0, source.view(-1)).view_as(source)


def _reflected(places: Tensor, length: int) -> Tensor:
    """Map places up to `length - 1` outside of 0 to `length - 1` to those that they mirror."""
    return length - 1 - (length - 1 - places.abs()).abs()


def rotate(planes: Tensor, degrees: Tensor) -> Tensor:
    """Turn images about their centres, bilinear, what comes in from outside reflected without its border pixel.

    Args:
        planes: Shape `(B, 3, H, H)`, uint8.
        degrees: Shape `(B,)`, float32, counter-clockwise.
    """
    count, _, height, width = planes.shape
    radians = degrees * (math.pi / 180)
    cos, sin = radians.cos()[:, None], radians.sin()[:, None]
    axis = torch.linspace(-1, 1, width, device=planes.device)
    grid = torch.empty(count, height, width, 2, device=planes.device)  # (x, y) that each pixel comes from
    torch.add((axis * cos)[:, None, :], (axis * -sin)[:, :, None], out=grid[..., 0])
    torch.add((axis * sin)[:, None, :], (axis * cos)[:, :, None], out=grid[..., 1])
    turned = F.grid_sample(planes.float(), grid, "bilinear", "reflection", align_corners=True)
    return turned.round_().to(torch.int16).to(torch.uint8)  # on a CPU far faster than straight to uint8


def cutout(planes: Tensor, rows: Tensor, columns: Tensor, size: int, color: Sequence[int]) -> Tensor:
    """Fill one square of each image, which may overlap the border (arXiv 1708.04552).

    Args:
        planes: Shape `(B, 3, H, W)`, uint8.
        rows: Shape `(B,)`, int32, the squares' centres.
        columns: Shape `(B,)`, int32.
        size: Side of the square in pixels.
        color: Red, green and blue, 0 to 255.
    """
    down = _within(rows, planes.shape[2], size)[:, :, None]
    across = _within(columns, planes.shape[3], size)[:, None, :]
    inside = (down & across)[:, None]  # (B, 1, H, W), 255 inside and 0 outside: masking bits beats torch.where by far
    fill = torch.tensor(color, dtype=torch.uint8, device=planes.device).view(3, 1, 1)
    return planes & ~inside | fill & inside


def _within(centres: Tensor, length: int, size: int) -> Tensor:
    """Mark the places `(B, length)` of the squares on one axis: uint8, 255 inside and 0 outside."""
    places = torch.arange(length, device=centres.device)
    starts = centres[:, None] - size // 2
    return ((places >= starts) & (places < starts + size)).to(torch.uint8).neg()


class DeviceAugmentation:
    """The random changes of training images, for batches; the same distribution as `augment.Augmentation`.

    Args:
        options: Which changes.
    """

    DRAWS = 6  # random numbers that a image takes

    def __init__(self, options: AugmentOptions) -> None:
        self.options = options

    def draw(self, seed: int, epoch: int, images: int) -> NDArray[np.float32]:
        """Return `(images, DRAWS)` numbers, uniform in 0..1 without 1, the same for the same seed and epoch.

        Those of alternating flips are 0 or 1.
        """
        draws = self._uniform(seed, epoch, images)
        if self.options.flip_mode == "alternate":
            first = self._uniform(seed, 0, images)[:, FLIP] < self.options.flip
            draws[:, FLIP] = first == (epoch % 2 == 1)
        return draws

    def _uniform(self, seed: int, epoch: int, images: int) -> NDArray[np.float32]:
        generator = np.random.default_rng((seed, epoch, self.DRAWS))  # not the one that shuffles
        return generator.random((images, self.DRAWS), np.float32)

    def __call__(self, words: Tensor, draws: Tensor, epoch: int) -> Tensor:
        """Return changed images, uint8 `(B, H, W, 3)` (planes in memory).

        Args:
            words: Shape `(B, H, W)`, int32, from `pack`; not written to.
            draws: Shape `(B, DRAWS)`, float32, a row for each image, of the same epoch.
            epoch: From 0.
        """
        top, left, angle, flip, row, column = draws.unbind(1)
        options = self.options
        places = 2 * options.crop_padding + 1
        flipped = flip < options.flip  # comes later in augment.py, but earlier it only changes the angle's sign
        tops, lefts = _below(places, top), _below(places, left)
        planes = unpack(crop_and_flip(words, tops, lefts, flipped, options.crop_padding, options.padding_mode))
        if options.rotate_degrees:
            planes = rotate(planes, (2 * angle - 1) * options.rotate_degrees)
        if side := options.cutout_side(epoch):
            rows, columns = _below(options.image_size, row), _below(options.image_size, column)
            planes = cutout(planes, rows, columns, side, options.color)
        return planes.permute(0, 2, 3, 1)


def _below(count: int, draws: Tensor) -> Tensor:
    """Map numbers in 0..1 to integers below `count`."""
    return (draws * count).int()
