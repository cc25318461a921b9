"""Augmentation of entire batches on any device, with the same distribution as cpu.py.

Images are stored packed, one int32 per pixel, so that moving a pixel copies one number instead of three.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cifar_lit.data.augment.config import AugmentConfig, PaddingMode, fill_color

FLIP = 3  # the column of the flip among the random numbers of an image


def pack(images: Tensor) -> Tensor:
    """Pack uint8 images `(B, H, W, 3)` into int32 `(B, H, W)`: red in the lowest byte, then green, then blue."""
    red, green, blue = images.int().unbind(-1)
    return red | green << 8 | blue << 16


def unpack(packed: Tensor) -> Tensor:
    """Unpack int32 `(B, H, W)` into uint8 images `(B, 3, H, W)`."""
    return torch.stack([(packed >> shift).to(torch.uint8) for shift in (0, 8, 16)], dim=1)


def crop_and_flip(
    packed: Tensor,
    tops: Tensor,
    lefts: Tensor,
    flipped: Tensor,
    size: int,
    padding: int,
    mode: PaddingMode = "constant",
) -> Tensor:
    """Pad, crop to `(size, size)`, and flip some images horizontally.

    Args:
        packed: Shape `(B, H, W)`, int32.
        tops: Shape `(B,)`, int32, first row of the crop in the padded image.
        lefts: Shape `(B,)`, int32, first column of the crop.
        flipped: Shape `(B,)`, bool.
        size: Height and width of the crop.
        padding: Pixels added on each side.
        mode: Black, or the image reflected without repeating its border pixels.
    """
    count, height, width = packed.shape
    x = torch.arange(size, dtype=torch.int32, device=packed.device)
    columns = torch.where(flipped[:, None], x.flip(0), x) + lefts[:, None]  # (B, size), in the padded image
    rows = x + tops[:, None]  # (B, size)
    if mode == "reflect":  # index the mirrored pixels instead of padding
        columns, rows = _reflect(columns - padding, width), _reflect(rows - padding, height)
    else:
        packed = F.pad(packed, (padding,) * 4)
    first_row = torch.arange(count, dtype=torch.int32, device=packed.device)[:, None] * packed.shape[1]
    source = ((rows + first_row) * packed.shape[2])[:, :, None] + columns[:, None, :]  # (B, size, size), flat
    return packed.reshape(-1).index_select(0, source.view(-1)).view_as(source)


def _reflect(positions: Tensor, length: int) -> Tensor:
    """Map positions up to `length - 1` outside of 0..length-1 to the positions that they mirror."""
    return length - 1 - (length - 1 - positions.abs()).abs()


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate about the center, bilinear, with borders reflected without repeating the border pixels.

    Args:
        images: Shape `(B, 3, H, H)`, uint8.
        degrees: Shape `(B,)`, float32, counterclockwise.
    """
    count, _, height, width = images.shape
    radians = degrees * (math.pi / 180)
    cos, sin = radians.cos()[:, None], radians.sin()[:, None]
    axis = torch.linspace(-1, 1, width, device=images.device)
    grid = torch.empty(count, height, width, 2, device=images.device)  # source (x, y) of each pixel
    torch.add((axis * cos)[:, None, :], (axis * -sin)[:, :, None], out=grid[..., 0])
    torch.add((axis * sin)[:, None, :], (axis * cos)[:, :, None], out=grid[..., 1])
    rotated = F.grid_sample(images.float(), grid, "bilinear", "reflection", align_corners=True)
    return rotated.round_().to(torch.int16).to(torch.uint8)  # on a CPU much faster than a direct cast to uint8


def cutout(images: Tensor, rows: Tensor, columns: Tensor, size: int, color: Sequence[int]) -> Tensor:
    """Fill one square of each image, which may overlap the border (arXiv 1708.04552).

    Args:
        images: Shape `(B, 3, H, W)`, uint8.
        rows: Shape `(B,)`, int32, centers of the squares.
        columns: Shape `(B,)`, int32, centers of the squares.
        size: Side of the square in pixels.
        color: Red, green and blue, 0 to 255.
    """
    vertical = _mask(rows, images.shape[2], size)[:, :, None]
    horizontal = _mask(columns, images.shape[3], size)[:, None, :]
    mask = (vertical & horizontal)[:, None]  # (B, 1, H, W); bit operations are much faster than torch.where
    fill = torch.tensor(color, dtype=torch.uint8, device=images.device).view(3, 1, 1)
    return images & ~mask | fill & mask


def _mask(centers: Tensor, length: int, size: int) -> Tensor:
    """Return the extent of the squares along an axis: `(B, length)`, uint8, 255 inside and 0 outside."""
    positions = torch.arange(length, device=centers.device)
    starts = centers[:, None] - size // 2
    return ((positions >= starts) & (positions < starts + size)).to(torch.uint8).neg()


class DeviceAugmentation:
    """Random augmentation of batches; the same distribution as `cpu.Augmentation`.

    Args:
        config: The transforms and their options.
        mean: Channel means in 0..1, the cutout's color.
    """

    DRAWS = 6  # random numbers per image

    def __init__(self, config: AugmentConfig, mean: Sequence[float]) -> None:
        self.config = config
        self.color = fill_color(mean)

    def draw(self, seed: int, epoch: int, count: int) -> NDArray[np.float32]:
        """Return the random numbers of all images, a function of seed and epoch.

        Returns:
            Shape `(count, DRAWS)`, float32, uniform in [0, 1); column FLIP is 0 or 1 for alternating flips.
        """
        draws = self._uniform(seed, epoch, count)
        if self.config.flip_mode == "alternate":
            first_epoch = self._uniform(seed, 0, count)[:, FLIP] < self.config.flip
            draws[:, FLIP] = first_epoch == (epoch % 2 == 1)
        return draws

    def _uniform(self, seed: int, epoch: int, count: int) -> NDArray[np.float32]:
        generator = np.random.default_rng((seed, epoch, self.DRAWS))  # differs from the sampler's (seed, epoch)
        return generator.random((count, self.DRAWS), np.float32)

    def __call__(self, packed: Tensor, draws: Tensor, epoch: int) -> Tensor:
        """Return augmented images, uint8 `(B, S, S, 3)` of the size S of the epoch, channels first in memory.

        Args:
            packed: Shape `(B, H, W)`, int32, from `pack`.
            draws: Shape `(B, DRAWS)`, float32, the images' rows of `draw`.
            epoch: The epoch of the draws, from 0.
        """
        top, left, angle, flip, row, column = draws.unbind(1)
        config = self.config
        side = config.size_at(epoch)
        offsets = config.image_size + 2 * config.crop_padding - side + 1
        # cpu.py flips after the rotation: flipping before it only changes the sign of the random angle.
        flipped = flip < config.flip
        tops, lefts = _integers(top, offsets), _integers(left, offsets)
        images = unpack(crop_and_flip(packed, tops, lefts, flipped, side, config.crop_padding, config.padding_mode))
        if config.rotate_degrees:
            images = rotate(images, (2 * angle - 1) * config.rotate_degrees)
        if size := config.cutout_size_at(epoch):
            rows, columns = _integers(row, side), _integers(column, side)
            images = cutout(images, rows, columns, size, self.color)
        return images.permute(0, 2, 3, 1)


def _integers(draws: Tensor, count: int) -> Tensor:
    """Map numbers in [0, 1) to integers below `count`."""
    return (draws * count).int()
