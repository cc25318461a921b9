from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch.optim import SGD

from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.optim import parameter_groups, set_learning_rates
from cifar_lit.models.resnet import ResNet18
from cifar_lit.models.schedules import Schedule

MEAN = (0.5, 0.5, 0.5)


@pytest.fixture(params=["batch", "layer"])
def net(request: pytest.FixtureRequest) -> ResNet18:
    return ResNet18(10, MEAN, MEAN, stem="imagenet", norm=request.param)


def names(net: ResNet18, group: dict[str, list[torch.nn.Parameter]]) -> set[str]:
    ids = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in net.named_parameters() if id(parameter) in ids}


def test_all_parameters_are_in_one_group_by_default(net: ResNet18) -> None:
    (group,) = parameter_groups(net)
    assert names(net, group) == {name for name, _ in net.named_parameters()}
    assert set(group) == {"params"}


def test_norms_and_biases_have_their_own_weight_decay(net: ResNet18) -> None:
    weights, others = parameter_groups(net, norm_weight_decay=0.0)
    assert all(parameter.ndim > 1 for parameter in weights["params"])
    assert len(weights["params"]) == 21  # 20 convolutions and the linear layer
    assert all(parameter.ndim == 1 for parameter in others["params"])
    assert len(others["params"]) == 41  # weight and bias of 20 norms, and the linear layer's bias
    assert "weight_decay" not in weights and others["weight_decay"] == 0


def test_norm_biases_have_their_own_learning_rate(net: ResNet18) -> None:
    rest, biases = parameter_groups(net, norm_bias_lr_mult=64)
    assert len(biases["params"]) == 20
    assert all(name.endswith(".bias") and "fc" not in name for name in names(net, biases))
    optimizer = SGD([rest, biases], lr=0.5)
    set_learning_rates(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 32]
    optimizer = SGD([rest, biases], lr=0.5)
    set_learning_rates(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 16]


def test_backbone_has_its_own_learning_rate(net: ResNet18) -> None:
    groups = parameter_groups(net, norm_weight_decay=0.0, norm_bias_lr_mult=4, backbone_lr_mult=0.1)
    optimizer = SGD(groups, lr=0.5)
    set_learning_rates(optimizer)
    assert [group["lr"] for group in groups] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.2])  # the first one is logged
    assert names(net, groups[0]) | names(net, groups[1]) == {"backbone.fc.weight", "backbone.fc.bias"}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def train(tmp_path: str, **options: object) -> ImageClassifier:
    torch.manual_seed(0)
    data = ImageDataModule(
        "digits", image_size=8, val_size=0, batch_size=32, num_workers=0, crop_padding=1, cutout_size=0
    )
    module = ImageClassifier(
        data.num_classes,
        data.mean,
        data.std,
        stem="imagenet",
        optimizer=lambda params: SGD(params, lr=0.1, weight_decay=1.0),
        **options,
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, **quiet).fit(module, datamodule=data)
    return module


def test_training_step_uses_the_groups(tmp_path: str) -> None:
    common, exempt = train(tmp_path), train(tmp_path, norm_weight_decay=0.0)
    fast = train(tmp_path, norm_weight_decay=0.0, norm_bias_lr_mult=8.0)
    ours, theirs, fasts = (module.net.backbone.bn1 for module in (exempt, common, fast))
    assert torch.allclose(ours.weight, theirs.weight + 0.1)  # initially 1, decays by lr times weight decay
    assert torch.equal(exempt.net.backbone.conv1.weight, common.net.backbone.conv1.weight)
    assert torch.allclose(fasts.bias, 8 * ours.bias)  # initially 0


@pytest.mark.parametrize("name", ["step", "onecycle", "cosine"])
def test_schedules_keep_the_ratio_of_learning_rates(name: Any, net: ResNet18) -> None:
    optimizer = SGD(parameter_groups(net, norm_bias_lr_mult=4), lr=0.5)
    set_learning_rates(optimizer)
    scheduler = Schedule(name=name, step_size=1).build(optimizer, lambda: 3)
    assert scheduler
    for _ in range(2):
        optimizer.step()
        scheduler.step()
        weights, biases = (group["lr"] for group in optimizer.param_groups)
        assert biases == pytest.approx(4 * weights)
