from typing import Any

import numpy as np
import pytest

from cifar_lit.data.augment.config import AugmentConfig
from cifar_lit.data.augment.cpu import Augmentation
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.utils.errors import UsageError

PLAIN: dict[str, Any] = {"crop_padding": 0, "rotate_degrees": 0, "flip": 0, "cutout_size": 0}
JITTER = {"class_path": "ColorJitter", "init_args": {"brightness": [0.5, 0.9], "p": 1}}
NOISE = {"class_path": "albumentations.GaussNoise", "init_args": {"p": 1}}  # draws from NumPy's generator


@pytest.mark.parametrize("transform", [JITTER, NOISE])
def test_transform_is_a_function_of_the_key(transform: dict[str, Any]) -> None:
    images = np.full((2, 16, 16, 3), 200, np.uint8)
    augment = Augmentation(AugmentConfig(16, **PLAIN, extra_transforms=[transform]), (0.5, 0.5, 0.5))
    first = augment(images, [1, 2])
    np.testing.assert_array_equal(augment(images[:1], [2])[0], first[1])
    assert (first[0] != first[1]).any() and (first != images).any()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"class_path": "ColorJiter"}, "ColorJiter: albumentations has no such transform"),
        ({"class_path": "ColorJitter", "init_args": {"brightnes": 1}}, r"ColorJitter: it cannot be used .*brightnes"),
        ({"class_path": "ColorJitter", "p": 1}, r"each must be \{class_path: NAME, init_args"),
        ({"class_path": "Normalize"}, r"Normalize: it must return uint8 \(16, 16, 3\).* but returns float32"),
        ({"class_path": "RandomCrop", "init_args": {"height": 8, "width": 8}}, r"but returns uint8 \(8, 8, 3\)"),
    ],
)
def test_unusable_transform_is_refused(transform: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.extra_transforms.*{message}"):
        AugmentConfig(16, **PLAIN, extra_transforms=[transform])


def test_transforms_run_in_the_workers() -> None:
    with pytest.raises(UsageError, match=r"data\.augment_on must be workers if there are extra_transforms"):
        ImageDataModule("digits", augment_on="device", extra_transforms=[JITTER])
    data = ImageDataModule("digits", val_size=0, num_workers=0, image_size=16, cutout_size=4, extra_transforms=[JITTER])
    next(iter(data.train_dataloader()))
    assert data.state_dict()["on_device"] is False
