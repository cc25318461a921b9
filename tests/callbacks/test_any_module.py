"""The callbacks in a Trainer with modules and loaders that are not of this project."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import mobilenet_v3_small, vgg11
from torchvision.models.vision_transformer import VisionTransformer

from cifar_lit.analysis.gradcam import upscale
from cifar_lit.analysis.layer_outputs import check_layers
from cifar_lit.callbacks.any_module import ModuleOptions, evaluate_module
from cifar_lit.callbacks.gradcam import GradCAMGrid
from cifar_lit.callbacks.misclassified import MisclassifiedImages
from cifar_lit.callbacks.scores import Scores
from cifar_lit.utils.errors import UsageError
from tests.conftest import QUIET_TRAINER

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
NAMES = ("ape", "bee", "cat")


class Classifier(LightningModule):
    """A user's module."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class ReturnsDict(Classifier):
    """Another one, whose forward returns a dictionary."""

    def forward(self, images: Tensor) -> Any:
        return {"logits": self.net(images), "features": None}


def vgg() -> Classifier:
    full = vgg11(weights=None, init_weights=False).features
    return Classifier(nn.Sequential(full, nn.Flatten(), nn.Linear(512, 3)))


def mobilenet() -> Classifier:
    return Classifier(mobilenet_v3_small(num_classes=3))


def transformer() -> Classifier:
    net = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=3)
    nn.init.normal_(net.heads.head.weight)  # torchvision's zeros have no gradients
    return Classifier(net)


def dictionary() -> Classifier:
    return ReturnsDict(mobilenet_v3_small(num_classes=3))


def patches(tokens: Tensor) -> Tensor:
    """Map the tokens of the transformer, the class token first, to `(B, channels, 4, 4)`."""
    return tokens[:, 1:].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)


MODULES: dict[str, tuple[Callable[[], Classifier], dict[str, Any]]] = {
    "vgg": (vgg, {"target_layer": "net.0.15"}),
    "mobilenet": (mobilenet, {"target_layer": "net.features.8"}),
    "transformer": (
        transformer,
        {"target_layer": "net.encoder.layers.encoder_layer_1.ln_1", "reshape_transform": patches},
    ),
    "dictionary": (dictionary, {"target_layer": "net.features.8", "logits": lambda output: output["logits"]}),
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def loader(images: np.ndarray) -> "DataLoader[Any]":
    floats = (torch.from_numpy(images) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return DataLoader(TensorDataset(floats.permute(0, 3, 1, 2), torch.arange(20) % 3), batch_size=8)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(*callbacks: Any) -> Trainer:
        return Trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[*callbacks], **QUIET_TRAINER)

    return make


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("blank_figures")
def test_report_of_any_module(
    name: str, loader: "DataLoader[Any]", trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    make, options = MODULES[name]
    module = make()
    parts = MisclassifiedImages(k=3, class_names=NAMES, mean=MEAN, std=STD), GradCAMGrid(k=2, **options)
    trainer(*parts).fit(module, loader, loader)
    report = tmp_path / "report"
    layer = options["target_layer"]
    assert {file.name for file in report.iterdir()} == {
        "misclassified.csv",
        "misclassified.png",
        *(f"gradcam_{panel}.png" for panel in ("true", "predicted", layer)),
    }
    rows = (report / "misclassified.csv").read_text().splitlines()[1:]
    with torch.no_grad():
        predicted = torch.cat([_logits(module.eval(), batch) for batch, _ in loader]).argmax(1)
    misclassified = (predicted != torch.arange(20) % 3).nonzero().flatten().tolist()
    assert sorted(int(row.split(",")[0]) for row in rows) == misclassified
    assert all(row.split(",")[1] == NAMES[int(row.split(",")[0]) % 3] for row in rows)


def _logits(module: LightningModule, batch: Tensor) -> Tensor:
    output = module(batch)
    logits: Tensor = output["logits"] if isinstance(output, dict) else output
    return logits


class OtherPackage(nn.Module):
    """A module that inherits its hooks from `lightning.pytorch`, which repeats the classes of pytorch_lightning."""

    def test_dataloader(self) -> Any:
        raise NotImplementedError

    test_dataloader.__module__ = "lightning.pytorch.core.hooks"


def test_module_of_the_other_lightning_package(loader: "DataLoader[Any]", trainer: Callable[..., Trainer]) -> None:
    class WithLoader(OtherPackage):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))

        def forward(self, images: Tensor) -> Any:
            return self.net(images)

        def test_dataloader(self) -> Any:
            return loader

    module: Any = WithLoader()
    assert len(evaluate_module(trainer(), module, ModuleOptions(NAMES, MEAN, STD), 3).test) == 20
    module = OtherPackage()
    with pytest.raises(UsageError, match="no test_dataloader"):
        evaluate_module(trainer(), module, ModuleOptions(NAMES, MEAN, STD), 3)


@pytest.mark.parametrize("name", MODULES)
def test_images_are_restored_and_cams_equal_the_package(
    name: str, images: np.ndarray, loader: "DataLoader[Any]", trainer: Callable[..., Trainer]
) -> None:
    torch.manual_seed(0)
    make, options = MODULES[name]
    module = make().train()
    results = evaluate_module(trainer(), module, ModuleOptions(NAMES, MEAN, STD, dataloader=loader, **options), 3)
    rows = results.test.errors[:3]
    np.testing.assert_array_equal(results.images(rows), images[rows])
    layer = options["target_layer"]
    cams = results.cams(rows, [layer], "GradCAM")[layer]
    assert module.training and not any(one._forward_hooks for one in module.modules())
    other = copy.deepcopy(module.net).eval()
    for one in other.modules():
        if isinstance(one, nn.ReLU):
            one.inplace = False  # on a CPU the package would see the output of the next layer
    target = other.get_submodule(layer.removeprefix("net."))
    pixels = torch.stack([loader.dataset[row][0] for row in rows])
    with GradCAM(other, [target], reshape_transform=options.get("reshape_transform")) as package:
        for k, classes in enumerate(results.test.target_classes(rows).T.tolist()):
            theirs = package(pixels, [ClassifierOutputTarget(label) for label in classes])
            for cam, expected in zip(cams[:, k], theirs, strict=True):
                # It divides by the maximum + 1e-7, which is not negligible here.
                np.testing.assert_allclose(upscale(cam, 32), expected / expected.max(), rtol=0, atol=1e-4)


def test_other_methods(loader: "DataLoader[Any]", trainer: Callable[..., Trainer]) -> None:
    torch.manual_seed(0)
    options = ModuleOptions(NAMES, MEAN, STD, dataloader=loader, logits=lambda output: output["logits"])
    results = evaluate_module(trainer(), dictionary(), options, 2)
    cams = results.cams(results.test.errors[:2], ["net.features.3", "net.features.8"], "LayerCAM")
    assert [cam.shape for cam in cams.values()] == [(2, 2, 4, 4), (2, 2, 2, 2)]


class FromBytes(Classifier):
    """Normalizes its images, which thus have no gradients."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.unused = nn.Conv2d(3, 3, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images.permute(0, 3, 1, 2) / 255)
        return logits


class NoGradients(Classifier):
    """Its features are not trained, as in Lightning's example of transfer learning."""

    def forward(self, images: Tensor) -> Any:
        with torch.no_grad():
            features = self.net.features(images).mean((2, 3))
        return self.net.classifier(features)


@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM"])
def test_frozen_layers_are_explained_or_refused(
    method: str, images: np.ndarray, loader: "DataLoader[Any]", trainer: Callable[..., Trainer]
) -> None:
    torch.manual_seed(0)
    net, layers = mobilenet_v3_small(num_classes=3), ["net.features.8"]
    pixels = DataLoader(TensorDataset(torch.from_numpy(images), torch.arange(20) % 3), batch_size=8)
    results = evaluate_module(trainer(), FromBytes(net), ModuleOptions(dataloader=pixels), 2)
    rows = results.test.errors[:2]
    expected = results.cams(rows, layers, method)[layers[0]]
    net.requires_grad_(False)
    np.testing.assert_array_equal(results.cams(rows, layers, method)[layers[0]], expected)
    with pytest.raises(UsageError, match="forward does not use this layer"):
        results.cams(rows, ["unused"], method)
    results = evaluate_module(trainer(), NoGradients(net), ModuleOptions(dataloader=loader), 2)
    with pytest.raises(UsageError, match=rf"^{method} needs gradients.*torch\.no_grad.*use method='EigenCAM'"):
        results.cams(results.test.errors[:2], layers, method)


class ChannelsLast(nn.Module):
    """A transformer whose feature maps are `(B, h, w, channels)`, as those of torchvision's Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.features(images).permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


BLOCK = "net.encoder.layers.encoder_layer_1"
PATCHES = r"reshape_transform=lambda tokens: tokens\[:, 1:\].reshape\(len\(tokens\), 4, 4, -1\).permute\(0, 3, 1, 2\)"
LAST = r"reshape_transform=lambda maps: maps.permute\(0, 3, 1, 2\)$"


@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM"])
@pytest.mark.parametrize(
    ("make", "layer", "reshape", "message"),
    [
        (transformer, f"{BLOCK}.ln_1", None, r"returns \(B, 17, 16\), not .*" + PATCHES),
        (transformer, f"{BLOCK}.ln_1", lambda x: x[:, 1:].unflatten(1, (4, 4)), r"\(B, 4, 4, 16\).*" + PATCHES),
        (
            transformer,
            f"{BLOCK}.ln_1",
            lambda x: x[:, 1:].unflatten(1, (7, 7)),
            r"\(B, 17, 16\), for .*fails .*" + PATCHES,
        ),
        (transformer, f"{BLOCK}.self_attention", None, "MultiheadAttention returns a tuple, not a tensor; use"),
        (transformer, "net.heads.head", None, r"returns \(B, 3\), not \(B, channels, h, w\); use another layer"),
        (lambda: Classifier(ChannelsLast()), "net.norm", None, r"returns \(B, 4, 4, 8\), not .*" + LAST),
        (
            lambda: Classifier(ChannelsLast()),
            "net.features",
            lambda maps: maps.permute(0, 2, 3, 1),
            r"\(B, 8, 4, 4\), and reshape_transform \(B, 4, 4, 8\), .*; leave out reshape_transform$",
        ),
    ],
)
def test_layers_without_feature_maps_are_refused(
    make: Callable[[], Classifier],
    layer: str,
    reshape: Any,
    message: str,
    method: str,
    loader: "DataLoader[Any]",
    trainer: Callable[..., Trainer],
) -> None:
    torch.manual_seed(0)
    results = evaluate_module(trainer(), make(), ModuleOptions(dataloader=loader, reshape_transform=reshape), 2)
    with pytest.raises(UsageError, match=message):
        results.cams(results.test.errors[:2], [layer], method)


class Unflattened(nn.Sequential):
    """A network whose inputs are rows of 784 values."""

    def __init__(self) -> None:
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)]
        super().__init__(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3, padding=1), *head)


def test_proportions_are_compared_with_those_of_images_only() -> None:
    net = Unflattened()
    check_layers(net, torch.rand(1, 784), [net[1]], None)


def test_unusable_module_is_refused_before_training(loader: "DataLoader[Any]", trainer: Callable[..., Trainer]) -> None:
    for part, message in (
        (GradCAMGrid(), r"no target_layer was given.*such as 'net\.features\.12\.0'"),
        (GradCAMGrid(target_layer="layer5"), "no layer 'layer5'"),
        (Scores(), "Scores needs the module and data of cifar_lit"),
    ):
        one = trainer(part)
        with pytest.raises(UsageError, match=message):
            one.fit(mobilenet(), loader, loader)
        assert one.global_step == 0


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (mobilenet, {"mean": None}, "give mean and std, which they were normalized with, or to_display"),
        (mobilenet, {"mean": (0.4, 0.5)}, r"mean=\(0.4, 0.5\), std=.*: give 3 values each"),
        (mobilenet, {"class_names": ["ape"]}, "class_names: 1 name for 3 logits"),
        (
            mobilenet,
            {"dataloader": [(torch.zeros(2, 3, 32, 32), torch.tensor([1, 3]))]},
            "labels from 1 to 3.* 3 logits",
        ),
        (dictionary, {}, "returns dict, not logits .* give logits"),
        (mobilenet, {"to_display": lambda images: images}, "to_display must return uint8"),
        (mobilenet, {"dataloader": [{"image": 1}]}, r"a batch of the loader is dict; a batch must be \(images"),
        (mobilenet, {"dataloader": [(torch.zeros(1, 3, 8, 8), [0])]}, r"loader is tuple; .*labels \(B,\)"),
        (mobilenet, {"dataloader": None}, "no test_dataloader; give dataloader"),
    ],
)
def test_unusable_options_are_named(
    make: Callable[[], Classifier],
    changes: dict[str, Any],
    message: str,
    loader: "DataLoader[Any]",
    trainer: Callable[..., Trainer],
) -> None:
    options = {"class_names": NAMES, "mean": MEAN, "std": STD, "dataloader": loader, **changes}
    with pytest.raises(UsageError, match=message):
        results = evaluate_module(trainer(), make(), ModuleOptions(**options), 3)
        results.images(results.test.errors[:3])


def test_evaluation_is_limited_like_a_test(loader: "DataLoader[Any]", tmp_path: Path) -> None:
    options = ModuleOptions(dataloader=loader)
    for limit, images in ((1, 8), (0.7, 16), (1.0, 20)):
        limited = Trainer(limit_test_batches=limit, default_root_dir=tmp_path, **QUIET_TRAINER)
        assert len(evaluate_module(limited, mobilenet(), options, 3).test) == images


def test_images_of_other_channels_need_to_display() -> None:
    with pytest.raises(UsageError, match=r"images of shape \(1, 4, 8, 8\).*or give to_display"):
        ModuleOptions().display(torch.zeros(1, 4, 8, 8))


def test_images_without_normalization_are_drawn_as_they_are() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    for images in (pixels, pixels.permute(0, 2, 3, 1), pixels / 255):
        np.testing.assert_array_equal(ModuleOptions().display(images), pixels.permute(0, 2, 3, 1))
    gray = ModuleOptions(mean=(0.5,), std=(0.5,)).display(torch.full((1, 1, 2, 2), 1.0))
    assert gray.shape == (1, 2, 2, 3) and (gray == 255).all()
