"""Augmentation of training images on one core: padding and cropping, flip, rotation, cutout."""

import random
from dataclasses import replace

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from harness import MEAN, STD, Row, Settings, alternate, faster
from PIL import Image

from cifar_lit.data import loaders
from cifar_lit.data.augment.config import AugmentConfig
from cifar_lit.data.augment.cpu import Augmentation
from cifar_lit.data.augment.device import DeviceAugmentation, pack
from cifar_lit.data.dataset import ImageDataset, Split
from cifar_lit.models.resnet import Normalize

BATCH = 512


class PerImageDataset(torch.utils.data.Dataset):
    """The usual way: one PIL image at a time, normalized in the transform."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = [Image.fromarray(image) for image in images]
        self.transform = A.Compose(
            [
                A.PadIfNeeded(40, 40, border_mode=cv2.BORDER_CONSTANT, p=1),
                A.RandomCrop(32, 32, p=1),
                A.HorizontalFlip(p=0.5),
                A.Rotate((-5, 5), border_mode=cv2.BORDER_REFLECT_101, p=1),
                A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16), p=1),
                A.Normalize(MEAN, STD),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(image=np.array(self.images[i]))["image"], 0


def measure(settings: Settings) -> list[Row]:
    """Prepare a batch of 512 images in each way, on one thread."""
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    random.seed(0)
    rounds = 0 if settings.quick else 15
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    per_image = PerImageDataset(images)
    config = AugmentConfig(32)
    dataset = ImageDataset(Split(images, np.zeros(BATCH, np.int64)), np.arange(BATCH), Augmentation(config, MEAN))
    keys = [(0, i) for i in range(BATCH)]  # (epoch, index)
    augment, normalize = DeviceAugmentation(config, MEAN), Normalize(MEAN, STD)
    draws = torch.from_numpy(augment.draw(0, 0, BATCH))
    packed = pack(torch.from_numpy(images))
    times = alternate(
        rounds,
        per_image=lambda: torch.utils.data.default_collate([per_image[i] for i in range(BATCH)]),
        workers=lambda: dataset.__getitems__(keys),
        batches=lambda: normalize(augment(packed, draws, 0)),
    )
    against = "albumentations per image, PIL to tensor"
    rows = [
        faster("augmentation", "in workers, one core", times["workers"], times["per_image"], BATCH, against, 2, 4),
        faster("augmentation", "in batches, one core", times["batches"], times["per_image"], BATCH, against, 10, 25),
    ]
    if torch.cuda.is_available():
        rows.append(_on_gpu(augment, normalize, rounds))
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv_threads)
    return rows


def _on_gpu(augment: DeviceAugmentation, normalize: Normalize, rounds: int) -> Row:
    """Augment as many images at a time as the loader does."""
    count = loaders.AUGMENTED_PIXELS // 32**2
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, device="cuda")
    packed, draws = pack(images), torch.from_numpy(augment.draw(0, 0, count)).cuda()
    normalize = normalize.cuda()

    def run() -> None:
        for _ in range(10):
            normalize(augment(packed, draws, 0))
        torch.cuda.synchronize()

    def copy() -> None:
        for _ in range(10):
            packed.clone()
        torch.cuda.synchronize()

    times = alternate(rounds, ours=run, copy=copy)
    million = 10 * count / times["ours"].median / 1e6
    row = faster("augmentation", "in batches, GPU", times["ours"], times["copy"], 10 * count, "copying the images")
    return replace(row, result=f"{million:.2f} M images/s", goal="must 1 M, aim 3 M images/s", met=million >= 1)
