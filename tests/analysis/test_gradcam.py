from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget

from cifar_lit.analysis.cam_methods import IMAGE_SIZED, check, methods, package_cams
from cifar_lit.analysis.gradcam import (
    GRADIENT_METHODS,
    activation_maps,
    default_layer,
    gradient_cams,
    upscale,
    why_flat,
)
from cifar_lit.models.resnet import LAYERS, ResNet18
from cifar_lit.utils.errors import UsageError

STATISTICS: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def make(**options: Any) -> ResNet18:
    torch.manual_seed(0)
    return ResNet18(10, **STATISTICS, **options).eval().requires_grad_(False)


@pytest.mark.parametrize(("stem", "norm"), [("cifar", "layer"), ("imagenet", "batch")])
def test_grad_cam_equals_the_package(stem: Any, norm: Any) -> None:
    net = make(stem=stem, norm=norm)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    classes = rng.integers(0, 10, (3, 2))
    ours = activation_maps(net, images, classes, LAYERS)
    pixels = net.normalize(torch.from_numpy(images)).requires_grad_()
    for layer in LAYERS:
        with GradCAM(net.backbone, [net.layer(layer)]) as package:
            for k in range(2):
                theirs = package(pixels, [ClassifierOutputTarget(int(c)) for c in classes[:, k]])
                for image in range(3):
                    cam = ours[layer][image, k]
                    if why_flat(cam):
                        assert np.ptp(upscale(cam, 32)) == np.ptp(theirs[image]) == 0
                    else:
                        np.testing.assert_allclose(upscale(cam, 32), theirs[image], rtol=0, atol=1e-4)


def test_large_images_are_processed_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make(stem="imagenet")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    classes = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]])
    expected = activation_maps(net, images, classes, LAYERS)
    sizes: list[int] = []
    monkeypatch.setattr("cifar_lit.analysis.gradcam.MAX_PIXELS", 2 * 32**2)
    net.backbone.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    cams = activation_maps(net, images, classes, LAYERS)
    assert sizes == [2, 2, 1]
    for layer in LAYERS:
        np.testing.assert_allclose(cams[layer], expected[layer], atol=1e-5)


def test_network_is_not_changed_after_an_error() -> None:
    net = make()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        activation_maps(net, images, np.zeros((2, 1), dtype=np.int64), LAYERS)
    with pytest.raises(RuntimeError):
        activation_maps(net, images, np.full((2, 1), 99), LAYERS)
    assert not any(module._forward_hooks for module in net.modules())
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
    assert not net.training
    assert all((value == before[key]).all() for key, value in net.state_dict().items())


def test_default_layer_is_the_deepest_above_5_px() -> None:
    assert default_layer(make(), 32) == "layer3"
    assert default_layer(make(), 64) == "layer4"
    assert default_layer(make(stem="imagenet"), 32) == "layer1"
    assert default_layer(make(stem="imagenet"), 8) == "layer1"  # none is large enough


def test_upscale_resizes_and_stretches() -> None:
    activation = np.array([[1.0, 3.0], [2.0, 5.0]], dtype=np.float32)
    got = upscale(activation, 8)
    assert got.shape == (8, 8) and got.dtype == np.float32
    np.testing.assert_allclose(got, cv2.resize((activation - 1) / 4, (8, 8)), atol=1e-6)
    assert (got.min(), got.max()) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize("image_size", [7, 32, 96])
@pytest.mark.parametrize(
    ("cam", "caption", "drawn"),
    [
        (np.full((1, 1), 0.3), "1x1: not localized", 0.5),
        (np.zeros((1, 1)), "1x1: not localized", 0.5),
        (np.full((4, 4), 1e-9), "constant: not localized", 0.5),
        (1e6 + np.eye(4), "constant: not localized", 0.5),  # the contrast is a rounding error
        (np.zeros((4, 4)), "no evidence", 0.0),
    ],
)
def test_cams_without_contrast_are_flat(cam: Any, caption: str, drawn: float, image_size: int) -> None:
    cam = cam.astype(np.float32)
    assert why_flat(cam) == caption
    assert (upscale(cam, image_size) == drawn).all()
    faint = np.full((4, 4), 1e-9, dtype=np.float32)
    faint[0, 0] *= 1.01
    assert why_flat(faint) == "" and np.ptp(upscale(faint, image_size)) == 1  # the size of the values does not matter


def test_methods_of_the_same_passes_equal_the_package() -> None:
    net = make(stem="imagenet")
    rng = np.random.default_rng(0)
    images, classes = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, (2, 2))
    found = gradient_cams(net, images, classes, LAYERS, list(GRADIENT_METHODS))
    assert list(found) == ["GradCAM", "HiResCAM", "LayerCAM"]
    for method, ours in found.items():
        theirs = package_cams(method, net, images, classes, LAYERS)
        for layer in LAYERS:
            low, high = (edge(ours[layer], axis=(2, 3), keepdims=True) for edge in (np.min, np.max))
            scaled = (ours[layer] - low) / np.where(high > low, high - low, np.inf)  # as the package scales
            np.testing.assert_allclose(scaled, theirs[layer], atol=1e-3)
        alone = activation_maps(net, images, classes, ["layer2"], method)["layer2"]
        np.testing.assert_allclose(alone, ours["layer2"], rtol=1e-4, atol=1e-7)
    assert not np.allclose(found["GradCAM"]["layer1"], found["HiResCAM"]["layer1"])


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_layer4_adds_up_to_the_logit_and_equals_hirescam(norm: Any) -> None:
    net = make(norm=norm)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    kept: list[torch.Tensor] = []
    handle = net.layer("layer4").register_forward_hook(lambda _layer, _inputs, output: kept.append(output))
    logits = net(torch.from_numpy(images)).numpy()
    handle.remove()
    weight, bias = net.backbone.fc.weight.numpy(), net.backbone.fc.bias.numpy()
    unclamped = np.einsum("kc,bchw->bkhw", weight, kept[0].numpy()) / 16  # CAM, arXiv 1512.04150, over 4 x 4 locations
    np.testing.assert_allclose(unclamped.sum(axis=(2, 3)) + bias, logits, atol=1e-4)
    found = gradient_cams(net, images, np.tile(np.arange(10), (2, 1)), ["layer4"], ["GradCAM", "HiResCAM"])
    for cams in found.values():
        np.testing.assert_allclose(cams["layer4"], unclamped.clip(min=0), atol=1e-5)


FAST = {"GradCAM", "EigenCAM", "AblationCAM"}  # one with gradients, one without, one that masks the input


@pytest.mark.parametrize(
    "method", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in sorted(methods())]
)
def test_every_method_gives_cams_of_the_same_kind(method: str) -> None:
    net = make(stem="imagenet")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():  # as at the end of a training
        both = activation_maps(net, images, np.array([[1, 2], [3, 4]]), ["layer1", "layer4"], method)
    cams = both["layer1"]
    if method != "FullGrad":  # does not depend on the layer
        assert {why_flat(cam) for cam in both["layer4"].reshape(4, 1, 1)} == {"1x1: not localized"}
    size = 32 if method in IMAGE_SIZED else 8
    assert cams.shape == (2, 2, size, size) and cams.dtype == np.float32 and cams.min() >= 0
    large = np.stack([upscale(cam, 32) for cam in cams.reshape(-1, size, size)])
    assert large.shape == (4, 32, 32) and large.min() == 0 and large.max() == pytest.approx(1)
    assert not net.training and not any(module._forward_hooks for module in net.modules())
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
    assert all((value == before[key]).all() for key, value in net.state_dict().items())


@pytest.mark.parametrize("method", ["LayerCAM", "FinerCAM"])
def test_other_methods_equal_the_package(method: str) -> None:
    net = make(stem="imagenet")
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    logits = net(torch.from_numpy(images))[0]
    cams = activation_maps(net, images, np.array([[1, 2]]), ["layer2"], method)["layer2"][0]
    net.requires_grad_(True)
    for label, cam in zip((1, 2), cams, strict=True):
        target: Any = ClassifierOutputTarget(label)
        if method == "FinerCAM":
            closest = [int(c) for c in (logits - logits[label]).abs().argsort() if c != label]
            target = FinerWeightedTarget(label, closest[:3], 1)
        package = methods()[method](net.backbone, [net.layer("layer2")])
        expected = package(net.normalize(torch.from_numpy(images)), [target])[0]
        np.testing.assert_allclose(upscale(cam, 32), expected, atol=1e-5)
    assert not np.allclose(*cams)


def test_unknown_method_raises_with_a_suggestion() -> None:
    assert check("gradcam.method", "GradCAM++") == "GradCAMPlusPlus"
    with pytest.raises(UsageError, match=r"gradcam.method=HiResCam: .* did you mean HiResCAM\? .*LayerCAM"):
        check("gradcam.method", "HiResCam")
