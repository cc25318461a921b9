"""Batched augmentation compared with albumentations: each transform alone, and all together."""

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from cifar_lit.data.augment.config import AugmentConfig, augmentation_key
from cifar_lit.data.augment.cpu import Augmentation
from cifar_lit.data.augment.device import DeviceAugmentation, crop_and_flip, cutout, pack, rotate, unpack

MEAN = (0.2, 0.4, 0.6)
FILL = (51, 102, 153)  # MEAN in 0..255
OFF = {"crop_padding": 0, "rotate_degrees": 0.0, "flip": 0.0, "cutout_size": 0}
MANY = 4000


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth images, like photographs, without black or FILL pixels."""
    noise = np.random.default_rng(0).integers(60, 250, (MANY, 8, 8, 3), dtype=np.uint8)
    return np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_CUBIC) for image in noise]).clip(60, 250)


def augment(images: np.ndarray, **options: float) -> np.ndarray:
    augmentation = DeviceAugmentation(AugmentConfig(32, **{**OFF, **options}), MEAN)
    draws = torch.from_numpy(augmentation.draw(0, 0, len(images)))
    return augmentation(pack(torch.from_numpy(images)), draws, 0).numpy()


def test_unpack_inverts_pack(images: np.ndarray) -> None:
    assert (unpack(pack(torch.from_numpy(images))).permute(0, 2, 3, 1).numpy() == images).all()
    assert (augment(images) == images).all()


def test_crop_and_flip(images: np.ndarray) -> None:
    packed = pack(torch.from_numpy(images[:162]))
    tops, lefts = torch.arange(162).int() % 9, torch.arange(162).int() // 9 % 9
    flipped = torch.arange(162) >= 81
    after = unpack(crop_and_flip(packed, tops, lefts, flipped, 32, 4)).permute(0, 2, 3, 1).numpy()
    for i, image in enumerate(images[:162]):
        window = np.pad(image, ((4, 4), (4, 4), (0, 0)))[i % 9 :, i // 9 % 9 :][:32, :32]
        assert (after[i] == (window[:, ::-1] if i >= 81 else window)).all()


def test_reflect_padding_equals_numpy(images: np.ndarray) -> None:
    packed = pack(torch.from_numpy(images[:81]))
    tops, lefts = torch.arange(81).int() % 9, torch.arange(81).int() // 9 % 9
    after = unpack(crop_and_flip(packed, tops, lefts, torch.zeros(81, dtype=torch.bool), 32, 4, "reflect"))
    for i, image in enumerate(images[:81]):
        window = np.pad(image, ((4, 4), (4, 4), (0, 0)), "reflect")[i % 9 :, i // 9 :][:32, :32]
        assert (after[i].permute(1, 2, 0).numpy() == window).all()


@pytest.mark.parametrize("device", [True, False])
def test_alternating_flip_flips_in_every_other_epoch(images: np.ndarray, device: bool) -> None:
    config = AugmentConfig(32, **{**OFF, "flip": 0.5}, flip_mode="alternate")
    flipped = []
    for epoch in range(4):
        if device:
            augmentation = DeviceAugmentation(config, MEAN)
            draws = torch.from_numpy(augmentation.draw(0, epoch, 400))
            after = augmentation(pack(torch.from_numpy(images[:400])), draws, epoch).numpy()
        else:
            keys = [augmentation_key(0, epoch, index) for index in range(400)]
            after = Augmentation(config, MEAN)(images[:400], keys)
        flipped.append((after == images[:400, :, ::-1]).all(axis=(1, 2, 3)))
        assert (flipped[-1] ^ (after == images[:400]).all(axis=(1, 2, 3))).all()
    assert 150 < flipped[0].sum() < 250  # 5 standard deviations
    assert (flipped[0] == ~flipped[1]).all() and (flipped[0] == flipped[2]).all() and (flipped[1] == flipped[3]).all()


@pytest.mark.parametrize("angle", [-180, -31, -5, -0.5, 0, 3, 90, 147])
def test_rotation_equals_albumentations(images: np.ndarray, angle: float) -> None:
    theirs = A.Rotate((angle, angle), border_mode=cv2.BORDER_REFLECT_101, p=1)
    expected = np.stack([theirs(image=image)["image"] for image in images[:20]]).astype(int)
    planes = torch.from_numpy(images[:20]).permute(0, 3, 1, 2)
    ours = rotate(planes, torch.full((20,), float(angle))).permute(0, 2, 3, 1).numpy().astype(int)
    # OpenCV rounds coordinates to 1/32 pixel.
    assert np.abs(ours - expected).max() <= 5
    assert np.abs(ours - expected).mean() < 0.6


@pytest.mark.parametrize("size", [1, 7, 16, 40])
def test_cutout_fills_the_square_around_its_center(images: np.ndarray, size: int) -> None:
    rows, columns = torch.arange(32).int(), torch.arange(32).int().flip(0)
    planes = torch.from_numpy(images[:32]).permute(0, 3, 1, 2)
    after = cutout(planes, rows, columns, size, FILL).permute(0, 2, 3, 1).numpy()
    for i in range(32):
        expected = images[i].copy()
        top, left = i - size // 2, 31 - i - size // 2
        expected[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = FILL
        assert (after[i] == expected).all()


def test_cutout_grows_in_the_warmup_epochs(images: np.ndarray) -> None:
    config = AugmentConfig(32, **{**OFF, "cutout_size": 16, "cutout_warmup_epochs": 4})
    on_device, on_cpu = DeviceAugmentation(config, MEAN), Augmentation(config, MEAN)
    packed = pack(torch.from_numpy(images[:400]))
    for epoch, side in enumerate((0, 4, 8, 12, 16, 16)):
        ours = on_device(packed, torch.from_numpy(on_device.draw(0, epoch, 400)), epoch).numpy()
        theirs = on_cpu(images[:400], [augmentation_key(0, epoch, index) for index in range(400)])
        for after in (ours, theirs):
            assert (after == FILL).all(axis=3).sum(axis=(1, 2)).max() == side**2


@pytest.mark.parametrize("padding", [0, 4])
def test_crops_grow_to_the_full_size_in_the_progressive_epochs(marked: np.ndarray, padding: int) -> None:
    options = {**OFF, "crop_padding": padding, "progressive_crop": 16, "progressive_epochs": 5, "cutout_size": 8}
    config = AugmentConfig(32, **options, padding_mode="reflect" if padding else "constant")
    on_device, on_cpu = DeviceAugmentation(config, MEAN), Augmentation(config, MEAN)
    for epoch, (side, square) in enumerate([(16, 4), (16, 4), (20, 5), (24, 6), (28, 7), (32, 8), (32, 8)]):
        ours = on_device(
            pack(torch.from_numpy(marked)), torch.from_numpy(on_device.draw(0, epoch, MANY)), epoch
        ).numpy()
        theirs = on_cpu(marked, [augmentation_key(0, epoch, index) for index in range(MANY)])
        corners = []
        for after in (ours, theirs):
            assert after.shape == (MANY, side, side, 3)
            visible = (after != FILL).any(axis=3)
            assert (~visible).sum(axis=(1, 2)).max() == square**2
            right = visible[:, 0, 0]  # where red is 100 + column, green 100 + row
            corners.append(after[right, 0, 0, :2].astype(int) - 100)
        for axis in (0, 1):
            assert similar(corners[0][:, axis], corners[1][:, axis])
            assert padding or set(corners[0][:, axis]) == set(range(32 - side + 1))


def similar(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two samples of integers may have the same distribution (chi-squared test, 5 standard deviations)."""
    length = max(a.max(), b.max()) + 1
    one, two = np.bincount(a, minlength=length), np.bincount(b, minlength=length)
    bins = one + two > 0
    chi = ((one - two) ** 2 / np.maximum(one + two, 1)).sum()
    return chi < bins.sum() + 5 * (2 * bins.sum()) ** 0.5


@pytest.fixture(scope="module")
def marked() -> np.ndarray:
    """Images whose pixels encode their position: red is 100 + column, green is 100 + row."""
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = np.meshgrid(range(100, 132), range(100, 132))
    image[..., 2] = 200
    return np.stack([image] * MANY)


def test_offsets_and_flips_have_the_distribution_of_the_cpu(marked: np.ndarray) -> None:
    both = []
    for after in (
        augment(marked, crop_padding=4, flip=0.5),
        Augmentation(AugmentConfig(32, rotate_degrees=0.0, cutout_size=0), MEAN)(marked, range(MANY)),
    ):
        x, y = after[:, 16, 15, 0].astype(int), after[:, 16, 15, 1].astype(int)
        flipped = after[:, 16, 14, 0] > after[:, 16, 15, 0]
        assert 0.46 < flipped.mean() < 0.54  # 5 standard deviations
        shifts = np.where(flipped, x - 116, x - 115) + 4
        assert set(shifts) == set(y - 116 + 4) == set(range(9))
        assert after[shifts == 0][:, :, [0, -1], 2].min() == 0  # black padding
        both.append((shifts, y - 112, flipped.astype(int)))
    for ours, theirs in zip(*both, strict=True):
        assert similar(ours, theirs)
    assert abs(np.corrcoef(both[0])[~np.eye(3, dtype=bool)]).max() < 0.08  # independent of each other


def test_angles_have_the_distribution_of_the_cpu(marked: np.ndarray) -> None:
    angles = []
    for after in (
        augment(marked, rotate_degrees=30.0),
        Augmentation(AugmentConfig(32, **{**OFF, "rotate_degrees": 30.0}), MEAN)(marked, range(MANY)),
    ):
        right, left = after[:, 16, 25, :2].astype(float), after[:, 16, 6, :2].astype(float)
        angle = np.degrees(np.arctan2(*(right - left).T[::-1]))
        assert -33 < angle.min() < -27 and 27 < angle.max() < 33  # measured in integer pixels
        angles.append(((angle + 36) // 4).astype(int))
    assert similar(*angles)


def test_cutout_squares_have_the_distribution_of_the_cpu(marked: np.ndarray) -> None:
    areas = []
    for after in (
        augment(marked, cutout_size=16),
        Augmentation(AugmentConfig(32, **{**OFF, "cutout_size": 16}), MEAN)(marked, range(MANY)),
    ):
        cut = (after == FILL).all(axis=3)
        assert cut.any(axis=(1, 2)).all()
        areas.append(
            np.concatenate([cut.any(axis=axis).argmax(axis=1) * 16 + cut.any(axis=axis).sum(1) for axis in (1, 2)])
        )
    assert similar(*areas)  # position and extent on both axes


def test_all_transforms_together_have_the_mean_of_the_cpu(images: np.ndarray) -> None:
    one = np.stack([images[0]] * MANY)
    ours = augment(one, crop_padding=4, rotate_degrees=5.0, flip=0.5, cutout_size=8).astype(float)
    theirs = Augmentation(AugmentConfig(32, cutout_size=8), MEAN)(one, range(MANY)).astype(float)
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / MANY)
    z = (ours.mean(axis=0) - theirs.mean(axis=0)) / error
    assert np.abs(z).max() < 6 and z.std() < 1.6  # neighboring pixels are correlated


def test_augmentation_is_a_function_of_image_and_draws(images: np.ndarray) -> None:
    augmentation = DeviceAugmentation(AugmentConfig(32), MEAN)
    draws = augmentation.draw(3, 1, MANY)
    assert (draws == augmentation.draw(3, 1, MANY)).all()
    assert not (draws == augmentation.draw(3, 2, MANY)).any(axis=1).all()
    assert not (draws == augmentation.draw(4, 1, MANY)).any(axis=1).all()
    packed, numbers = pack(torch.from_numpy(images)), torch.from_numpy(draws)
    full = augmentation(packed, numbers, 1)
    before = packed.clone()
    assert (augmentation(packed[100:107], numbers[100:107], 1) == full[100:107]).all()
    assert (packed == before).all()
    assert full.dtype == torch.uint8 and full.shape == images.shape
