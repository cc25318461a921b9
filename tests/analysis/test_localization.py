"""The pointing game, on networks whose evidence is known, and by another route."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifar_lit.analysis.bootstrap import estimate
from cifar_lit.analysis.localization import (
    BLOB,
    METHODS,
    Localization,
    assemble,
    cell_fractions,
    draw_mosaics,
    localize,
    pointing_game,
)
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.models.resnet import LAYERS, Normalize, ResNet18

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], dtype=np.uint8)


class Colors(nn.Module):
    """A network whose evidence for the classes red, green and blue is exactly where the color is; 3 has none."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.layers = nn.ModuleDict({name: nn.AvgPool2d(2 if name == "layer1" else 1) for name in LAYERS})

    def layer(self, name: str) -> nn.Module:
        return self.layers[name]

    def backbone(self, pixels: Tensor) -> Tensor:
        for layer in self.layers.values():
            pixels = layer(pixels)
        return torch.cat([pixels, 0 * pixels[:, :1]], dim=1).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(self.normalize(images))


def predictions(probability: np.ndarray, labels: np.ndarray, classes: int = 10) -> Predictions:
    table = np.tile((1 - probability[:, None]) / (classes - 1), (1, classes))
    table[np.arange(len(labels)), labels] = probability
    return Predictions(np.arange(len(labels)), labels, np.log(table))


def test_evidence_in_the_correct_cell_scores_1() -> None:
    net: Any = Colors()
    classes = np.array([[0, 1, 2, 3], [3, 2, 0, 1]])
    cells = np.tile(COLOURS[classes][:, :, None, None], (1, 1, 16, 16, 1))
    for layers in pointing_game(net, cells, classes, LAYERS).values():
        for layer, scores in layers.items():
            assert np.isnan(scores[classes == 3]).all()  # black: no evidence
            blurred = 0.94 if layer in LAYERS else 1  # resizing reaches a little into the neighbouring cells
            assert (scores[classes < 3] > blurred).all() and (scores[classes < 3] <= 1).all()
    found = localize(net, cells, classes)
    for name in METHODS:
        score = found.scores[name]["layer4"]
        assert score and score.value > 0.94 and score.count == 2
    elsewhere = pointing_game(net, cells, classes[:, ::-1].copy(), LAYERS)["GradCAM"]["layer1"]
    assert np.nanmax(elsewhere) < 0.06
    blob = found.scores[BLOB]["layer1"]
    assert blob and (blob.value, blob.low, blob.high) == pytest.approx((0.25, 0.25, 0.25))


def by_hand(net: ResNet18, mosaic: np.ndarray, label: int, layer: str, method: str) -> np.ndarray:
    """A CAM as the papers write it, of one image, class and layer."""
    kept: list[Tensor] = []
    handle = net.get_submodule(f"backbone.{layer}").register_forward_hook(lambda _layer, _in, out: kept.append(out))
    logit = net(torch.from_numpy(mosaic[None]))[0, label]
    handle.remove()
    features, gradients = kept[-1][0].detach().numpy(), torch.autograd.grad(logit, kept[-1])[0][0].numpy()
    if method == "GradCAM":
        return np.einsum("c,chw->hw", gradients.mean(axis=(1, 2)), features).clip(min=0)
    return np.einsum("chw,chw->hw", gradients if method == "HiResCAM" else gradients.clip(min=0), features).clip(min=0)


def test_scores_by_hand() -> None:
    torch.manual_seed(0)
    net = ResNet18(6, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval()
    cells = np.random.default_rng(0).integers(0, 256, (1, 4, 32, 32, 3), dtype=np.uint8)
    classes = np.array([[5, 1, 2, 3]])
    played = pointing_game(net, cells, classes, ["layer1", "layer3"])
    mosaic = np.vstack([np.hstack(cells[0, :2]), np.hstack(cells[0, 2:])])
    np.testing.assert_array_equal(assemble(cells)[0], mosaic)
    for method in METHODS:
        for layer in ("layer1", "layer3"):
            for cell, (top, left) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32)]):
                large = cv2.resize(by_hand(net, mosaic, classes[0, cell], layer, method), (64, 64))
                expected = large[top : top + 32, left : left + 32].sum() / large.sum() if large.any() else np.nan
                assert played[method][layer][0, cell] == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_layers_of_1_px_are_not_scored_and_the_best_is_larger_than_5_px() -> None:
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    cells = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    found = localize(net, cells, np.tile(np.arange(4), (2, 1)))
    assert found.sizes == {"layer1": 8, "layer2": 4, "layer3": 2, "layer4": 1}
    assert list(found.scores["GradCAM"]) == list(found.scores[BLOB]) == ["layer1", "layer2", "layer3"]
    assert found.best_layer("GradCAM") == found.best_layer("EigenCAM") == "layer1"
    assert (found.num_mosaics, found.num_images) == (2, 8)
    sizes: Any = {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 4}

    def best(*means: float) -> str | None:
        scores: Any = {name: estimate(np.array([mean])) for name, mean in zip(LAYERS, means, strict=True)}
        return Localization(1, 4, {"GradCAM": scores}, sizes).best_layer("GradCAM")

    assert best(0.3, 0.5, 0.4, 0.9) == "layer2" and best(0.5, 0.5, 0.5, 0.5) == "layer3"
    assert best(np.nan, np.nan, np.nan, 0.9) is None


def test_mosaics_have_confident_correct_images_of_different_classes() -> None:
    labels = np.arange(500) % 10
    probability = np.full(500, 0.95)
    probability[::3] = 0.5  # not confident
    test = predictions(probability, labels)
    rows = draw_mosaics(test, 60)
    assert rows.shape == (60, 4) and not np.isin(rows, np.arange(0, 500, 3)).any()
    assert all(len(set(four)) == 4 for four in labels[rows])
    assert len(np.unique(rows)) == 240  # none recurs
    np.testing.assert_array_equal(rows, draw_mosaics(test, 60))
    assert set(np.unique(labels[rows[:, 0]])) == set(range(10))
    recurring = draw_mosaics(test, 10_000)
    assert len(recurring) == len(np.unique(recurring)) == 333  # as many mosaics as images
    assert draw_mosaics(predictions(probability, labels % 3, 3), 10).shape == (0, 4)  # three classes
    assert draw_mosaics(predictions(np.full(500, 0.8), labels), 10).shape == (0, 4)


def test_fractions_of_a_cam() -> None:
    cam = np.zeros((4, 4), dtype=np.float32)
    cam[0, 3] = 3
    cam[3, 0] = 1
    np.testing.assert_allclose(cell_fractions(cam, 4), [0, 0.75, 0.25, 0])
    assert np.isnan(cell_fractions(0 * cam, 4)).all()


def test_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = estimate(np.append(values, np.nan))
    assert found and found.count == 400 and found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20  # of the normal approximation
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.03)
    assert (found.against(0), found.against(3), found.against(4)) == (1, 0, -1)
    assert estimate(np.array([np.nan])) is None
