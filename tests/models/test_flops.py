import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cifar_lit.models.flops import training_flops
from cifar_lit.models.resnet import ResNet18, Stem


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_operations_are_those_of_a_training_step(stem: Stem) -> None:
    net = ResNet18(10, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), stem=stem).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).sum().backward()
    assert training_flops(net, [32], 2) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_smaller_images_take_less() -> None:
    net = ResNet18(10, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)).eval()
    full, quarter = training_flops(net, [32], 100), training_flops(net, [16], 100)
    assert quarter == pytest.approx(full / 4, rel=0.01)
    assert training_flops(net, [16, 32, 32], 100) == quarter + 2 * full
