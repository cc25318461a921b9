"""Scores of maps, on networks whose right answer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import nn

from cifar_lit.analysis.faithfulness import SHARES, STAGES, cascading_randomization, road
from cifar_lit.models.resnet import Normalize, ResNet18


class BrightCorner(nn.Module):
    """Knows one thing: class 1 is a bright upper left corner."""

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


def test_road_tells_a_right_map_from_a_wrong_one(images: np.ndarray) -> None:
    net: Any = BrightCorner().eval()
    right, wrong = np.zeros((2, 32, 32), dtype=np.float32)
    right[:8, :8] = 1
    wrong[24:, 24:] = 1
    scores = road(net, images, np.array([1, 1]), np.stack([right, wrong]))
    assert scores[0] > 0.2 > scores[1]
    again = road(net, images, np.array([1, 1]), np.stack([right, wrong]))
    np.testing.assert_array_equal(scores, again)


def test_road_is_what_the_package_computes(images: np.ndarray) -> None:
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    heat = rng.random((2, 32, 32), dtype=np.float32)  # no two places alike
    classes = np.array([1, 3])
    ours = road(net, images, classes, heat)
    torch.manual_seed(0)  # of the noise
    pixels, targets = (
        net.normalize(torch.from_numpy(images)),
        [ClassifierOutputSoftmaxTarget(int(c)) for c in classes],
    )
    theirs = ROADCombined(list(SHARES))(pixels, heat, targets, net.backbone)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours).min() > 1e-4


def test_places_of_equal_heat_go_one_after_another(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def seen(self: NoisyLinearImputer, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shares.append(float((mask == 0).float().mean()))
        return image

    monkeypatch.setattr(NoisyLinearImputer, "__call__", seen)
    plateau = np.zeros((1, 32, 32), dtype=np.float32)
    plateau[:, 0, 0] = 1
    net: Any = BrightCorner().eval()
    road(net, images[:1], np.array([1]), plateau)
    assert shares == pytest.approx([1 - share / 100 for share in SHARES] * 2, abs=2e-3)


def test_road_of_an_empty_map_is_not_defined(images: np.ndarray) -> None:
    net: Any = BrightCorner().eval()
    assert np.isnan(road(net, images, np.array([1, 1]), np.zeros((2, 32, 32), dtype=np.float32))).all()


def test_randomisation_changes_the_maps_and_leaves_the_network() -> None:
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval().requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    stages = cascading_randomization(net, images, np.array([0, 1, 2]), "layer3")
    assert tuple(name for name, _ in stages) == STAGES
    assert all(-1 <= similar < 0.9 for _, similar in stages)
    assert all((value == before[key]).all() for key, value in net.state_dict().items())
    assert (torch.random.get_rng_state() == state).all()
