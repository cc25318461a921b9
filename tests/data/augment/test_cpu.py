import albumentations as A
import cv2
import numpy as np
import pytest

from cifar_lit.data.augment.config import AugmentConfig
from cifar_lit.data.augment.cpu import Augmentation, Rotate

MEAN = (0.2, 0.4, 0.6)
FILL = (51, 102, 153)  # MEAN in 0..255
OFF = {"crop_padding": 0, "rotate_degrees": 0.0, "flip": 0.0, "cutout_size": 0}


def make(**options: float | str) -> Augmentation:
    return Augmentation(AugmentConfig(32, **{**OFF, **options}), MEAN)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 100, (400, 32, 32, 3), dtype=np.uint8)


def test_all_off_changes_nothing(images: np.ndarray) -> None:
    assert (make()(images, range(400)) == images).all()


def test_augmentation_is_a_function_of_image_and_key(images: np.ndarray) -> None:
    one = Augmentation(AugmentConfig(32), MEAN)
    first = one(images, range(400))
    backwards = one(images[::-1], range(399, -1, -1))[::-1]
    assert (first == backwards).all()
    assert (Augmentation(AugmentConfig(32), MEAN)(images[200:], range(200, 400)) == first[200:]).all()
    assert not (one(images, range(1000, 1400)) == first).all(axis=(1, 2, 3)).any()
    assert first.dtype == np.uint8 and first.shape == images.shape


def test_input_is_not_modified(images: np.ndarray) -> None:
    before = images.copy()
    images.setflags(write=False)
    Augmentation(AugmentConfig(32), MEAN)(images, range(400))
    assert (images == before).all()


def test_crop_uses_every_offset_in_the_black_padding(images: np.ndarray) -> None:
    used = set()
    for before, after in zip(images, make(crop_padding=4)(images, range(400)), strict=True):
        padded = np.pad(before, ((4, 4), (4, 4), (0, 0)))
        shifts = [(y, x) for y in range(9) for x in range(9) if (padded[y : y + 32, x : x + 32] == after).all()]
        assert len(shifts) == 1
        used.add(shifts[0])
    assert {y for y, _ in used} == set(range(9)) == {x for _, x in used}


def test_crop_with_reflect_padding(images: np.ndarray) -> None:
    for before, after in zip(images, make(crop_padding=4, padding_mode="reflect")(images, range(400)), strict=True):
        padded = np.pad(before, ((4, 4), (4, 4), (0, 0)), "reflect")
        assert any((padded[y : y + 32, x : x + 32] == after).all() for y in range(9) for x in range(9))


def test_flip_probability(images: np.ndarray) -> None:
    after = make(flip=0.5)(images, range(400))
    flipped = (after == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (after == images).all(axis=(1, 2, 3))
    assert (flipped ^ same).all()
    assert 150 < flipped.sum() < 250  # 5 standard deviations
    assert (make(flip=1.0)(images, range(400)) == images[:, :, ::-1]).all()


@pytest.mark.parametrize("angle", [-170.0, -5.0, 0.3, 45.0, 90.0])
def test_rotation_equals_albumentations(images: np.ndarray, angle: float) -> None:
    theirs = A.Rotate((angle, angle), border_mode=cv2.BORDER_REFLECT_101, p=1)
    ours = Rotate(0)
    for image in images[:20]:
        expected = theirs(image=image)["image"].astype(int)
        assert np.abs(ours.apply(image, angle).astype(int) - expected).max() <= 1


def test_cutout_is_a_square_of_the_mean_color_anywhere(images: np.ndarray) -> None:
    after = make(cutout_size=16)(images, range(400))
    areas = []
    for before, image in zip(images, after, strict=True):
        cut = (image == FILL).all(axis=2)
        rows, columns = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
        assert cut[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one rectangle
        assert (image[~cut] == before[~cut]).all()
        areas.append(cut.sum())
    assert max(areas) == 256  # inside the image
    assert min(areas) < 100  # overlaps the border
    assert len(set(areas)) > 20


@pytest.mark.parametrize("size", [1, 7, 40])
def test_cutout_of_odd_and_large_sizes(images: np.ndarray, size: int) -> None:
    after = make(cutout_size=size)(images, range(400))
    cut = (after == FILL).all(axis=3).sum(axis=(1, 2))
    assert cut.max() == min(size, 32) ** 2
