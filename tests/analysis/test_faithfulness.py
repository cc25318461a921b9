"""Scores of CAMs, on networks whose correct answer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from cifar_lit.analysis.faithfulness import PERCENTILES, STAGES, cascading_randomization, road
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import nn

from cifar_lit.models.resnet import Normalize, ResNet18

CLASSES = np.array([0, 1, 2])


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


def test_cams_without_contrast_are_left_out_of_the_sanity_check() -> None:
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    tiny = cascading_randomization(net, images, CLASSES, "layer4")  # 1 px
    net.backbone.fc.weight.zero_()
    empty = cascading_randomization(net, images, CLASSES, "layer2")
    assert all(np.isnan(scores).all() for scores in [*tiny.values(), *empty.values()])


def test_randomization_changes_the_cams_but_not_the_network() -> None:
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval().requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    stages = cascading_randomization(net, images, CLASSES, "layer3")
    assert tuple(stages) == STAGES
    assert all(-1 <= scores.min() and scores.mean() < 0.9 for scores in stages.values())
    assert all((value == before[key]).all() for key, value in net.state_dict().items())
    assert (torch.random.get_rng_state() == state).all()
