"""What augmentation may do to a training image; augment.py does it in workers, device_augment.py in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PaddingMode = Literal["constant", "reflect"]
FlipMode = Literal["random", "alternate"]


@dataclass(frozen=True)
class AugmentOptions:
    """The random changes of a training image, in the order in which they happen.

    Args:
        image_size: Height and width in pixels.
        mean: Channel means in 0..1, the colour of the cutout.
        crop_padding: Pixels added on each side before cropping back; 0 turns it off.
        padding_mode: What is added: black, or the image reflected at its border pixels (which are not repeated).
        rotate_degrees: Largest angle in either direction, borders reflected; 0 turns it off.
        flip: Probability of a horizontal flip; 0 turns it off.
        flip_mode: `random` draws anew for each image and epoch. `alternate` draws for the first epoch, and from then
            on every image is flipped in every other epoch, so that two epochs show both sides of each
            (arXiv 2404.00498, section 3.6).
        cutout_size: Side of the square in pixels; 0 turns it off.
        cutout_warmup_epochs: Epochs in which the square grows from nothing: progressive regularisation
            (arXiv 2104.00298, section 4). 0 gives it its size from the beginning.
    """

    image_size: int
    mean: Sequence[float]
    crop_padding: int = 4
    padding_mode: PaddingMode = "constant"
    rotate_degrees: float = 5.0
    flip: float = 0.5
    flip_mode: FlipMode = "random"
    cutout_size: int = 16
    cutout_warmup_epochs: int = 0

    @property
    def color(self) -> list[int]:
        """The cutout's red, green and blue, 0..255."""
        return [round(255 * m) for m in self.mean]

    def cutout_side(self, epoch: int) -> int:
        """Return the side of the cutout's square in an epoch, in pixels."""
        grown = min(1.0, epoch / self.cutout_warmup_epochs) if self.cutout_warmup_epochs else 1.0
        return round(self.cutout_size * grown)


def augmentation_key(seed: int, epoch: int, index: int) -> int:
    """Return the number that all randomness of one image in one epoch comes from."""
    return seed << 64 | epoch << 32 | index


def first_epoch(key: int) -> tuple[int, int]:
    """Return the epoch of a key, and the key of the same image in the first epoch."""
    epoch = key >> 32 & 0xFFFFFFFF
    return epoch, key ^ epoch << 32
