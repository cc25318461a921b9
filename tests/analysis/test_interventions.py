"""Blurring the evidence, on a network whose evidence is known."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from cifar_lit.analysis.interventions import (
    AREAS,
    FOR_PREDICTED,
    FOR_TRUE,
    KINDS,
    REPEATS,
    highest,
    intervene,
    shift_randomly,
)
from cifar_lit.models.resnet import ResNet18


def test_areas_and_positions() -> None:
    values = np.random.default_rng(0).random((3, 10, 10), dtype=np.float32)
    marked = highest(values, 0.2)
    assert marked.sum(axis=(1, 2)).tolist() == [20] * 3
    for one, mask in zip(values, marked, strict=True):
        assert one[mask].min() > one[~mask].max()
    assert highest(np.zeros((1, 10, 10), np.float32), 0.4).sum() == 40  # ties
    moved = shift_randomly(marked, 0)
    assert moved.sum(axis=(1, 2)).tolist() == [20] * 3 and (moved != marked).any()
    assert highest(values[:0], 0.2).shape == shift_randomly(marked[:0], 0).shape == (0, 10, 10)


def test_evidence_that_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 1 (predicted) is a checked square at the upper left, class 0 (true) another at the lower right."""
    checks = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.full((32, 32, 3), 128, dtype=np.uint8)
    image[2:10, 2:10] = checks[..., None]
    image[22:30, 22:30] = checks[..., None] // 2 + 64
    images = np.tile(image, (4, 1, 1, 1))

    class Contrast(torch.nn.Module):
        """The logits are the contrasts of the two squares: the larger one is predicted."""

        def __init__(self) -> None:
            super().__init__()
            self.normalize = ResNet18(2, (0.5,) * 3, (0.5,) * 3, stem="imagenet").normalize

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            values = batch.float()
            return torch.stack(
                [values[:, 22:30, 22:30].std(dim=(1, 2, 3)), values[:, 2:10, 2:10].std(dim=(1, 2, 3))], 1
            )

    def maps(_net: Any, batch: np.ndarray, *_: Any) -> Any:
        cams = np.zeros((len(batch), 2, 32, 32), dtype=np.float32)
        cams[:, 0, 22:30, 22:30] = cams[:, 1, 2:10, 2:10] = 1
        cams[3, 0] = 0  # flat
        return {"layer3": cams}

    monkeypatch.setattr("cifar_lit.analysis.interventions.activation_maps", maps)
    net: Any = Contrast()
    found = intervene(net, images, np.tile([0, 1], (4, 1)), "layer3")
    assert (found.num_images, found.num_flat) == (3, 1)
    area = AREAS.index(0.1)  # covers a square of 8 x 8
    turned, reverse = found.turned[FOR_PREDICTED][area], found.turned[FOR_TRUE][area]
    random, difference = found.random[FOR_PREDICTED][area], found.differences[FOR_PREDICTED][area]
    assert turned and reverse and random and difference
    assert (turned.value, reverse.value) == (1, 0) and random.value < 1
    exact = [binomtest(hits, 3).proportion_ci(method="wilson") for hits in (3, 0)]  # not 0 wide, as by bootstrap
    assert [(one.low, one.high) for one in (turned, reverse)] == [(one.low, one.high) for one in exact]
    assert difference.value == pytest.approx(1 - random.value)


def test_fractions_by_another_route() -> None:
    torch.manual_seed(0)
    net = ResNet18(3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    predicted = net(torch.from_numpy(images)).argmax(1).numpy()
    classes = np.stack([(predicted + 1) % 3, predicted], axis=1)
    found = intervene(net, images, classes, "layer1")
    from cifar_lit.analysis.gradcam import activation_maps, upscale

    cams = activation_maps(net, images, classes, ["layer1"])["layer1"]
    for i, kind in enumerate(KINDS):
        corrected = []
        for image, pair, true in zip(images, cams, classes[:, 0], strict=True):
            first, second = upscale(pair[1 - i], 32), upscale(pair[i], 32)
            if np.ptp(first) and np.ptp(second):
                order = np.argsort((second - first).ravel(), kind="stable")
                mask = np.isin(np.arange(1024), order[: round(0.2 * 1024)]).reshape(32, 32, 1)
                changed = np.where(mask, cv2.GaussianBlur(image, (0, 0), 4), image)
                corrected.append(int(net(torch.from_numpy(changed[None])).argmax()) == true)
        turned = found.turned[kind][AREAS.index(0.2)]
        assert (turned.value if turned else None) == (np.mean(corrected) if corrected else None)
    assert found.num_images + found.num_flat == 6 and REPEATS > 0
