"""Options of the training augmentation, shared by cpu.py (albumentations) and device.py (batched)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cifar_lit.utils.errors import UsageError

PaddingMode = Literal["constant", "reflect"]
FlipMode = Literal["random", "alternate"]
CROP_STEP = 4  # px; other widths are slower on many devices


def check_option(name: str, value: object, valid: bool, allowed: str) -> None:
    """Raise UsageError naming the option `data.<name>` and its allowed values unless the value is valid."""
    if not valid:
        raise UsageError(f"data.{name} must be {allowed}, got {value}")


@dataclass(frozen=True)
class AugmentConfig:
    """Random augmentation of training images: crop, rotation, flip and cutout.

    Args:
        image_size: Height and width in pixels.
        crop_padding: Pixels added on each side before a random crop, 0 to image_size; 0 disables the crop.
        padding_mode: `constant` pads with black, `reflect` mirrors the image without repeating its border pixels.
        rotate_degrees: Largest angle of the random rotation in either direction, 0 to 180; 0 disables it.
        flip: Probability of a horizontal flip, 0 to 1; 0 disables it.
        flip_mode: `random` draws for each image and epoch; `alternate` draws in the first epoch, then flips each image
            in every other epoch (arXiv 2404.00498, section 3.6).
        cutout_size: Side of the cutout square in pixels, 0 to twice image_size; 0 disables it.
        cutout_warmup_epochs: Epochs in which the square grows linearly from 0 to cutout_size, 0 or more
            (progressive regularization, arXiv 2104.00298, section 4); 0 uses cutout_size from the start.
        progressive_crop: Height and width in pixels of the training images of the first epoch, 8 or more: random crops,
            which grow to image_size over progressive_epochs in steps of 4 px, and cutout with them. Smaller images take
            less time. The network is evaluated at full size. Default: full size from the start.
        progressive_epochs: Number of epochs with smaller crops, 1 or more, and below trainer.max_epochs: BatchNorm
            learns the statistics of full-size images in the others.
        extra_transforms: More transforms of albumentations, applied before cutout: a list of `{class_path: ColorJitter,
            init_args: {brightness: [0.8, 1.2], p: 0.5}}`. They must keep shape and dtype, and run in the workers
            (augment_on).
    """

    image_size: int
    crop_padding: int = 4
    padding_mode: PaddingMode = "constant"
    rotate_degrees: float = 5.0
    flip: float = 0.5
    flip_mode: FlipMode = "random"
    cutout_size: int = 16
    cutout_warmup_epochs: int = 0
    progressive_crop: int | None = None
    progressive_epochs: int = 0
    extra_transforms: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        size, padding, side, epochs = self.image_size, self.crop_padding, self.cutout_size, self.cutout_warmup_epochs
        check_option("crop_padding", padding, 0 <= padding <= size, f"0 to image_size, {size}")
        fits = self.padding_mode == "constant" or padding < size
        check_option("padding_mode", self.padding_mode, fits, f"constant if crop_padding is image_size, {size}")
        check_option("rotate_degrees", self.rotate_degrees, 0 <= self.rotate_degrees <= 180, "between 0 and 180")
        check_option("flip", self.flip, 0 <= self.flip <= 1, "between 0 and 1")
        check_option("flip_mode", self.flip_mode, self.flip_mode == "random" or self.flip > 0, "random if flip is 0")
        check_option("cutout_size", side, 0 <= side <= 2 * size, f"0 to twice image_size, {2 * size}")
        warmup = epochs == 0 or (epochs > 0 and side > 0)
        check_option("cutout_warmup_epochs", epochs, warmup, "0 or more, and 0 if cutout_size is 0")
        crop, growing = self.progressive_crop, self.progressive_epochs
        check_option(
            "progressive_crop", crop, crop is None or 8 <= crop < size, f"8 or more and below image_size, {size}"
        )
        together = growing >= 1 if crop else growing == 0
        check_option("progressive_epochs", growing, together, "1 or more with progressive_crop, else 0")
        if self.extra_transforms:
            from cifar_lit.data.augment.extra import build  # here: importing albumentations takes seconds

            build(self.extra_transforms, size)

    def size_at(self, epoch: int) -> int:
        """Return height and width of the training images in an epoch, in pixels."""
        if self.progressive_crop is None or epoch >= self.progressive_epochs:
            return self.image_size
        grown = (self.image_size - self.progressive_crop) * epoch / self.progressive_epochs
        return self.progressive_crop + int(grown) // CROP_STEP * CROP_STEP

    def cutout_size_at(self, epoch: int) -> int:
        """Return the side of the cutout square in an epoch, in pixels."""
        fraction = min(1.0, epoch / self.cutout_warmup_epochs) if self.cutout_warmup_epochs else 1.0
        return round(self.cutout_size * fraction * self.size_at(epoch) / self.image_size)


def fill_color(mean: Sequence[float]) -> list[int]:
    """Convert channel means in 0..1 to the cutout's color, 0 to 255."""
    return [round(255 * m) for m in mean]


def augmentation_key(seed: int, epoch: int, index: int) -> int:
    """Combine seed, epoch and image index into the seed of one image's augmentation."""
    return seed << 64 | epoch << 32 | index
