from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cifar_lit.models.resnet import Normalize, ResNet18, smallest_strided

STATISTICS: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.LocalResponseNorm)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_cifar_stem_keeps_the_resolution() -> None:
    net = ResNet18(10, **STATISTICS)
    assert parameters(net) == 11_173_962
    sizes = []
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        net.layer(layer).register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    assert net(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (2, 10)
    assert sizes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_imagenet_stem_equals_torchvision() -> None:
    from torchvision.models import resnet18

    net = ResNet18(10, **STATISTICS, stem="imagenet")
    assert parameters(net) == parameters(resnet18(num_classes=10))
    theirs = resnet18(num_classes=10).eval()
    theirs.load_state_dict(net.backbone.state_dict())
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    torch.testing.assert_close(net.eval()(images), theirs(net.normalize(images)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("image_size", [8, 16, 17, 32, 33])
def test_smallest_strided_is_the_input_size_of_layer4(stem: Any, image_size: int) -> None:
    net = ResNet18(10, **STATISTICS, stem=stem).eval()
    sizes = []
    net.layer("layer4").register_forward_pre_hook(lambda _m, args: sizes.append(args[0].shape[2:]))
    net(torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8))
    assert sizes == [(smallest_strided(image_size, stem),) * 2]


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_layer_norm_replaces_every_batch_norm(stem: Any) -> None:
    net = ResNet18(10, **STATISTICS, stem=stem, norm="layer")
    assert not [m for m in net.modules() if isinstance(m, NORMS)]
    assert sum(isinstance(m, nn.LayerNorm) for m in net.modules()) == 20
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), alone, rtol=1e-4, atol=1e-4)  # images of a batch are independent


def test_normalize_standardizes_each_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    expected = (images / 255 - STATISTICS["mean"]) / STATISTICS["std"]
    got = Normalize(**STATISTICS)(torch.from_numpy(images))
    assert got.shape == (3, 3, 5, 7) and got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 32, 32, 3), torch.float), ((2, 3, 32, 32), torch.float), ((2, 3, 32, 32), torch.uint8), ((3,), torch.uint8)],
)
def test_images_of_another_dtype_or_shape_are_refused(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(B, H, W, 3\), got .*byte\(\)"):
        ResNet18(10, **STATISTICS)(torch.zeros(shape, dtype=dtype))


def test_statistics_are_in_the_state_dict() -> None:
    other = ResNet18(10, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    other.load_state_dict(ResNet18(10, **STATISTICS).state_dict())
    assert other.normalize.mean.ravel().tolist() == pytest.approx(STATISTICS["mean"])


def test_memory_format_changes_the_layout_not_the_result() -> None:
    last, first = ResNet18(10, **STATISTICS), ResNet18(10, **STATISTICS, memory_format="contiguous")
    first.load_state_dict(last.state_dict())
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    torch.testing.assert_close(last.eval()(images), first.eval()(images), rtol=1e-3, atol=1e-4)
    weight = "backbone.layer1.0.conv1.weight"
    assert last.state_dict()[weight].is_contiguous(memory_format=torch.channels_last)
    assert not first.state_dict()[weight].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_zero_init_makes_residual_blocks_the_identity(norm: Any) -> None:
    net = ResNet18(10, **STATISTICS, norm=norm, zero_init_residual=True).eval()
    features = torch.rand(2, 64, 8, 8)
    torch.testing.assert_close(net.backbone.layer1(features), features)
    assert not torch.equal(ResNet18(10, **STATISTICS, norm=norm).eval().backbone.layer1(features), features)


@pytest.mark.parametrize("init, variance", [("he", 2 / (9 * 512)), ("torch", 1 / (3 * 9 * 512))])
def test_init_sets_the_variance_of_the_convolutions(init: Any, variance: float) -> None:
    net = ResNet18(10, **STATISTICS, init=init)
    weights = net.get_submodule("backbone.layer4.1.conv2").weight
    assert weights.var().item() == pytest.approx(variance, rel=0.02)
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert net.backbone.conv1.weight.var().item() == pytest.approx(2 / (9 * 64) if init == "he" else 1 / 81, rel=0.2)
