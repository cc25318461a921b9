from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cifar_lit.analysis.predictions import Predictions, average, predict, read_csv, write_csv
from cifar_lit.data.dataset import DataSplits, Split
from cifar_lit.models.resnet import ResNet18


class Brightness(nn.Module):
    """Logits from the mean of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(1, 2)) / 10


def test_each_image_is_predicted_once_and_in_order(splits: DataSplits) -> None:
    split = Split(np.tile(splits.train.images, (10, 1, 1, 1)), np.tile(splits.train.labels, 10))  # 600: 3 batches
    got = predict(Brightness(), split)
    logits = split.images.astype(np.float64).mean(axis=(1, 2)) / 10
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert (got.indices == np.arange(600)).all()
    np.testing.assert_allclose(got.log_probabilities, expected, rtol=1e-5, atol=1e-5)
    chosen = np.array([3, 7, 599])
    part = predict(Brightness(), split, chosen)
    assert (part.indices == chosen).all() and (part.labels == split.labels[chosen]).all()
    np.testing.assert_allclose(part.log_probabilities, got.log_probabilities[chosen])


def test_features_are_the_inputs_of_the_last_layer(splits: DataSplits) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Brightness(), nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 2)).eval()
    split = Split(np.tile(splits.train.images, (10, 1, 1, 1)), np.tile(splits.train.labels, 10))
    got = predict(net, split, last=net[3])
    with torch.no_grad():
        expected = net[:3](torch.from_numpy(split.images))
    assert got.features is not None and got.features.dtype == np.float32
    np.testing.assert_allclose(got.features, expected, rtol=1e-5, atol=1e-6)
    assert not net[3]._forward_pre_hooks
    assert predict(net, split).features is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixed", [True, False])
def test_logits_are_not_rounded_to_the_precision_of_the_network(
    splits: DataSplits, dtype: torch.dtype, mixed: bool
) -> None:
    torch.manual_seed(0)
    net = ResNet18(10, splits.mean, splits.std, stem="imagenet").eval()
    net = net if mixed else net.to(dtype)
    last = net.backbone.fc
    context = partial(torch.autocast, "cpu", dtype=dtype) if mixed else nullcontext
    got = predict(net, splits.test, last=last, context=context)
    assert got.features is not None
    exact = torch.from_numpy(got.features).double() @ last.weight.double().T + last.bias.double()
    np.testing.assert_allclose(got.log_probabilities, exact.log_softmax(1).detach(), atol=1e-5)
    net.train()
    with context():  # training takes the network's precision
        assert net(torch.from_numpy(splits.test.images)).dtype == dtype


def test_average_is_that_of_the_logits(splits: DataSplits) -> None:
    class Left(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :, 0].float().mean(dim=1) / 10  # the first column

    split, net = splits.train, Left()
    plain, mirrored = predict(net, split), predict(net, split, mirrored=True)
    first, last = (split.images[:, :, column].astype(np.float64).mean(axis=1) / 10 for column in (0, -1))
    both = torch.from_numpy((first + last) / 2).log_softmax(1).numpy()
    np.testing.assert_allclose(average(plain, mirrored).log_probabilities, both, rtol=1e-5, atol=1e-5)
    assert not np.allclose(plain.log_probabilities, mirrored.log_probabilities)
    np.testing.assert_allclose(average(plain, plain).log_probabilities, plain.log_probabilities, atol=1e-12)


@pytest.fixture
def three() -> Predictions:
    table = np.log([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8]])
    return Predictions(np.arange(4), np.array([0, 1, 2, 2]), table)


def test_accuracy_and_loss(three: Predictions) -> None:
    assert three.accuracy == 0.5
    assert three.loss == pytest.approx(-np.log([0.7, 0.3, 0.05, 0.8]).mean())
    assert three.predicted.tolist() == [0, 0, 0, 2]


def test_errors_are_sorted_by_loss(three: Predictions) -> None:
    assert three.errors.tolist() == [2, 1]


def test_csv_round_trip(three: Predictions, tmp_path: Path) -> None:
    write_csv(tmp_path / "p.csv", three, ("a", "b, c", "p(d)"))
    again, classes = read_csv(tmp_path / "p.csv")
    assert classes == ("a", "b, c", "p(d)")
    assert (again.indices == three.indices).all() and (again.labels == three.labels).all()
    np.testing.assert_allclose(again.probabilities, three.probabilities, rtol=1e-8)
    assert (tmp_path / "p.csv").read_text().splitlines()[2] == '1,"b, c",a,-0.3,1.2039728,0.6,0.3,0.1'
    write_csv(tmp_path / "files.csv", three, ("a", "b, c", "p(d)"), ["a/1.png", "b/2, 3.png", "c.png", "d.png"])
    assert (tmp_path / "files.csv").read_text().splitlines()[2].endswith('0.6,0.3,0.1,"b/2, 3.png"')
    again, classes = read_csv(tmp_path / "files.csv")
    assert classes == ("a", "b, c", "p(d)") and again.probabilities.shape == (4, 3)
