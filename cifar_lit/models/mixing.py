"""MixUp (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of training batches, by torchvision's transforms."""

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from cifar_lit.utils.errors import UsageError


class Mixing:
    """Mixes the images and labels of a batch, with random numbers that are a function of seed and position.

    Args:
        mixup_alpha: Both parameters of the Beta distribution from which MixUp draws; 0 turns it off.
        cutmix_alpha: The same for CutMix. If both are on, each batch gets one of them, with equal probability.
        num_classes: Number of classes.
    """

    def __init__(self, mixup_alpha: float, cutmix_alpha: float, num_classes: int) -> None:
        for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if alpha < 0:
                raise UsageError(f"model.{name} must be 0 or more, got {alpha}")
        self.transforms: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        if mixup_alpha:
            self.transforms.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
        if cutmix_alpha:
            self.transforms.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))

    def __call__(self, images: Tensor, labels: Tensor, *position: int) -> tuple[Tensor, Tensor]:
        """Return mixed images and the probability of each class.

        Args:
            images: Shape `(B, H, W, 3)`, uint8.
            labels: Shape `(B,)`, int64.
            position: Whole numbers that identify the batch, such as epoch, batch and process.

        Returns:
            Images of the same shape and dtype, and labels `(B, num_classes)`, float32, each row sums to 1. Without
            any transform both are returned unchanged.
        """
        if not self.transforms:
            return images, labels
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # where seed_everything documents that it stores it
        numbers = np.random.SeedSequence((seed, *position)).generate_state(2, np.uint32)
        with torch.random.fork_rng(devices=[]):  # the transforms draw from the CPU's global generator
            torch.default_generator.manual_seed(int(numbers[0]))
            transform = self.transforms[int(numbers[1]) % len(self.transforms)]
            mixed, probabilities = transform(images.permute(0, 3, 1, 2).float(), labels)
        return mixed.round().to(torch.uint8).permute(0, 2, 3, 1), probabilities
