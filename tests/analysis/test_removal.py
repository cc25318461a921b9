"""Removal of the marked pixels, on networks whose correct answer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import nn

from cifar_lit.analysis import removal
from cifar_lit.analysis.gradcam import activation_maps, upscale
from cifar_lit.analysis.removal import CAM, NULL_MAPS, PERCENTILES, compare_with_null_maps, null_maps, road
from cifar_lit.analysis.sanity import cascading_randomization
from cifar_lit.models.resnet import Normalize, ResNet18


class BrightCorner(nn.Module):
    """Class 1 is a bright upper left corner."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def backbone(self, pixels: torch.Tensor) -> torch.Tensor:
        corner = pixels[:, :, :8, :8].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(corner), 10 * corner - 5], dim=1)


@pytest.fixture
def images() -> np.ndarray:
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    images[:, :8, :8] = 255
    return images


def test_road_is_higher_for_the_correct_cam(images: np.ndarray) -> None:
    net: Any = BrightCorner().eval()
    cams = np.zeros((2, 32, 32), dtype=np.float32)
    cams[0, :8, :8] = 1
    cams[1, 24:, 24:] = 1
    scores = road(net, images, np.array([1, 1]), cams)
    assert scores[0] > 0.2 > scores[1]
    np.testing.assert_array_equal(scores, road(net, images, np.array([1, 1]), cams))


def test_road_equals_the_package() -> None:
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    cams = rng.random((2, 32, 32), dtype=np.float32)  # without equal values
    ours = road(net, images, np.array([1, 3]), cams)
    torch.manual_seed(0)  # of the noise
    pixels, targets = net.normalize(torch.from_numpy(images)), [ClassifierOutputSoftmaxTarget(c) for c in (1, 3)]
    expected = ROADCombined(list(PERCENTILES))(pixels, cams, targets, net.backbone)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert np.abs(ours).min() > 1e-4


def test_generators_of_gpus_are_left_alone(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("torch.manual_seed seeds all GPUs"))
    net = ResNet18(2, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    before = torch.get_rng_state()
    road(net, images, np.array([1, 1]), np.random.default_rng(0).random((2, 32, 32), dtype=np.float32))
    cascading_randomization(net, images[:1], np.array([1]), "layer1")
    assert torch.equal(torch.get_rng_state(), before)


def test_pixels_of_equal_value_are_not_removed_together(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[float] = []

    def impute(self: NoisyLinearImputer, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        removed.append(float((mask == 0).float().mean()))
        return image

    monkeypatch.setattr(NoisyLinearImputer, "__call__", impute)
    plateau = np.zeros((1, 32, 32), dtype=np.float32)
    plateau[:, 0, 0] = 1
    net: Any = BrightCorner().eval()
    road(net, images[:1], np.array([1]), plateau)
    assert removed == pytest.approx([1 - percentile / 100 for percentile in PERCENTILES] * 2, abs=2e-3)


def test_road_of_a_constant_cam_is_nan(images: np.ndarray) -> None:
    net: Any = BrightCorner().eval()
    cams = np.zeros((2, 32, 32), dtype=np.float32)
    cams[1] = 0.5
    assert np.isnan(road(net, images, np.array([1, 1]), cams)).all()


def test_single_cam_has_none_of_another_image() -> None:
    cams = np.zeros((3, 4, 4), np.float32)
    cams[1, 0, 0] = 1
    assert not removal._of_another(cams).any()
    cams[2, 3, 3] = 1
    np.testing.assert_array_equal(removal._of_another(cams), cams[[0, 2, 1]])


def test_null_maps_and_their_differences() -> None:
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    every = activation_maps(net, images, np.tile(np.arange(4), (3, 1)), ["layer1"])["layer1"]
    classes = np.array([[label for label in range(4) if np.ptp(four[label])][:2] for four in every])
    maps = null_maps(net, images, classes, "layer1", "GradCAM")
    pairs = activation_maps(net, images, classes, ["layer1"])["layer1"]
    cams = np.stack([upscale(pair[0], 32) for pair in pairs])
    np.testing.assert_array_equal(maps[CAM], cams)
    np.testing.assert_array_equal(maps["the other class's CAM"], np.stack([upscale(pair[1], 32) for pair in pairs]))
    np.testing.assert_array_equal(maps["another image's CAM"], cams[[2, 0, 1]])
    blob, blurred = maps["centered blob"], maps["the CAM, blurred"]
    assert (blob == blob[:, ::-1]).all() and (blob == blob[:, :, ::-1]).all() and blob[0, 15:17, 15:17].min() > 0.98
    assert (blurred.std(axis=(1, 2)) < cams.std(axis=(1, 2))).all()
    assert np.unique(maps["random"]).size > 3000
    found = compare_with_null_maps(net, images, classes, "layer1")
    alone = {name: road(net, images, classes[:, 0], one) for name, one in maps.items()}
    for name in NULL_MAPS:
        score, difference = found.scores[name], found.differences[name]
        assert score and difference and score.count == difference.count == 3
        assert score.value == pytest.approx(alone[name].mean())
        assert difference.value == pytest.approx((alone[CAM] - alone[name]).mean())
        assert difference.low <= difference.value <= difference.high


def test_images_without_contrast_are_left_out_of_the_comparison() -> None:
    torch.manual_seed(0)
    net = ResNet18(3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    net.backbone.fc.weight[1] = 0  # no evidence for class 1
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = compare_with_null_maps(net, images, np.array([[0, 1], [1, 2], [2, 0]]), "layer2")
    counts = {name: one.count for name, one in found.differences.items() if one}
    assert counts == {**dict.fromkeys(NULL_MAPS, 2), "the other class's CAM": 1}
