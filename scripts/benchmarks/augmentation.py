"""Augmentation of training images on one core: pad-and-crop, flip, rotate, cutout."""

import random
from dataclasses import replace

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from harness import Row, Settings, alternate, faster
from PIL import Image

from cifar_lit.data.augment.config import AugmentOptions
from cifar_lit.data.augment.cpu import Augmentation
from cifar_lit.data.augment.device import DeviceAugmentation, pack
from cifar_lit.data.datamodule import loaders
from cifar_lit.data.dataset import ImageDataset, Split
from cifar_lit.models.resnet import Normalize

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
BATCH = 512


class Usual(torch.utils.data.Dataset):
    """As in most notebooks: a PIL image at a time, normalised in the transform."""

    def __init__(self, images: np.ndarray) -> None:
        self.splits = [Image.fromarray(image) for image in images]
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
        return len(self.splits)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(image=np.array(self.splits[i]))["image"], 0


def measure(settings: Settings) -> list[Row]:
    """Prepare one batch of 512 in each way; all on one thread."""
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    random.seed(0)
    rounds = 0 if settings.quick else 15
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    usual = Usual(images)
    split = Split(images, np.zeros(BATCH, np.int64))
    dataset = ImageDataset(split, np.arange(BATCH), Augmentation(AugmentOptions(32, MEAN)))
    keys = [(0, i) for i in range(BATCH)]
    in_batches, normalize = DeviceAugmentation(AugmentOptions(32, MEAN)), Normalize(MEAN, STD)
    draws = torch.from_numpy(in_batches.draw(0, 0, BATCH))
    words = pack(torch.from_numpy(images))
    times = alternate(
        rounds,
        usual=lambda: _nothing(torch.utils.data.default_collate([usual[i] for i in range(BATCH)])),
        workers=lambda: _nothing(dataset.__getitems__(keys)),
        batches=lambda: _nothing(normalize(in_batches(words, draws, 0))),
    )
    against = "albumentations per image, PIL to tensor"
    rows = [
        faster("augmentation", "in workers, one core", times["workers"], times["usual"], BATCH, against, 2, 4),
        faster("augmentation", "in batches, one core", times["batches"], times["usual"], BATCH, against, 10, 25),
    ]
    if torch.cuda.is_available():
        rows.append(_on_the_gpu(in_batches, normalize, rounds))
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv_threads)
    return rows


def _on_the_gpu(augmentation: DeviceAugmentation, normalize: Normalize, rounds: int) -> Row:
    """Augment as many images at once as the loader does."""
    at_once = loaders.AT_ONCE // 32**2
    images = torch.randint(0, 256, (at_once, 32, 32, 3), dtype=torch.uint8, device="cuda")
    words, draws = pack(images), torch.from_numpy(augmentation.draw(0, 0, at_once)).cuda()
    normalize = normalize.cuda()

    def run() -> None:
        for _ in range(10):
            normalize(augmentation(words, draws, 0))
        torch.cuda.synchronize()

    def copy() -> None:
        for _ in range(10):
            words.clone()
        torch.cuda.synchronize()

    times = alternate(rounds, ours=run, copy=copy)
    million = 10 * at_once / times["ours"].median / 1e6
    row = faster("augmentation", "in batches, GPU", times["ours"], times["copy"], 10 * at_once, "copying the images")
    return replace(row, result=f"{million:.2f} M images/s", goal="must 1 M, aim 3 M images/s", met=million >= 1)


def _nothing(_: object) -> None:
    """Forget a result, so that the clock of `alternate` counts."""
