"""Sanity checks with randomized weights."""

import numpy as np
import torch

from cifar_lit.analysis.sanity import (
    STAGES,
    cascading_randomization,
    check_sanity,
    complexity,
    complexity_rise,
    randomize,
)
from cifar_lit.models.resnet import LAYERS, ResNet18

CLASSES = np.array([0, 1, 2])


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


def test_complexity_by_hand() -> None:
    ramp = np.arange(100, dtype=np.float32).reshape(10, 10)
    assert np.isclose(complexity(ramp, 10), np.log(100))  # a hundred different values
    halves = np.repeat(np.array([0, 1], dtype=np.float32), 50).reshape(10, 10)
    assert np.isclose(complexity(halves, 10), np.log(2))
    assert np.isnan(complexity(np.zeros((4, 4), np.float32), 8))


def test_all_weights_are_randomized_but_not_the_network() -> None:
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval().requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    randomized = randomize(net)
    weights = [name for name in before if "weight" in name and before[name].ndim > 1]
    assert not any(torch.equal(randomized.state_dict()[name], before[name]) for name in weights)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state) and not randomized.training
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    rises = complexity_rise(net, randomized, images, CLASSES, LAYERS)
    assert np.isnan(rises["layer4"]).all()  # 1 px
    found = check_sanity(net, images, CLASSES, "layer1")
    means = {name: np.nanmean(one) if not np.isnan(one).all() else None for name, one in rises.items()}
    assert {name: one and one.value for name, one in found.complexity_rise.items()} == means


def test_complexity_rise_equals_quantus() -> None:
    """Compare with what quantus 0.6.0 returned, which would replace opencv-python-headless if it was installed.

    In a copy of the environment, after `pip install --no-deps quantus==0.6.0` and what it imports, for `net`, `images`
    and the labels below:

        def explain(model, inputs, targets, **_):
            with GradCAM(model, [model.layer1]) as cam:  # of the grad-cam package
                return cam(torch.as_tensor(inputs), [ClassifierOutputTarget(int(t)) for t in targets])[:, None]

        metric = quantus.EfficientMPRT(complexity_func_kwargs={"n_bins": 100})
        metric(net.backbone, net.normalize(torch.from_numpy(images)).numpy(), labels, explain_func=explain)
    """
    torch.manual_seed(0)
    net = ResNet18(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stem="imagenet").eval()
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    rises = complexity_rise(net, randomize(net), images, np.arange(6) % 4, ["layer1"])["layer1"]
    quantus = [np.nan, -0.01931, -0.86599, -0.39821, 1.9211, 0.00235]  # the first is inf there: a map without contrast
    np.testing.assert_allclose(rises, quantus, atol=0.02)
