"""The callbacks alone, in a user's own Trainer, and at their edges."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from cifar_lit.analysis.predictions import Predictions
from cifar_lit.callbacks.gradcam import GradCAMGrid
from cifar_lit.callbacks.misclassified import MisclassifiedImages
from cifar_lit.callbacks.report import CombinedReport, ReportCallback
from cifar_lit.callbacks.samples import SampleImages
from cifar_lit.callbacks.scores import Scores
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import DataSplits
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.models.resnet import ResNet18
from cifar_lit.report.writer import Report
from cifar_lit.utils.errors import UsageError


def test_in_a_trainer_of_ones_own_with_nothing_else(tmp_path: Path) -> None:
    data = ImageDataModule("digits", val_size=200, num_workers=0)
    module = ImageClassifier(data.num_classes, data.mean, data.std, stem="imagenet")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=1,
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        callbacks=[MisclassifiedImages(k=3), GradCAMGrid(k=3, layers=["layer1", "layer2"]), Scores()],
    )
    trainer.fit(module, datamodule=data)
    names = {file.name for file in (tmp_path / "report").iterdir()}
    assert {"misclassified.csv", "gradcam_true.png", "gradcam_predicted.png"} <= names
    assert {"gradcam_layer1.png", "gradcam_layer2.png", "metrics.json"} <= names
    assert module.training and all(p.requires_grad for p in module.parameters())
    assert not any(m._forward_hooks for m in module.modules())


def test_everything_is_computed_before_anything_is_written(tmp_path: Path) -> None:
    done: list[str] = []

    class Part(ReportCallback):
        def compute(self, analysis: Any) -> None:
            done.append("compute")

        def write(self, analysis: Any, report: Report) -> None:
            done.append("write")

    analysis: Any = SimpleNamespace(trainer=SimpleNamespace(is_global_zero=True, world_size=1), problems={})
    CombinedReport([Part(), Part()]).make(analysis, tmp_path)
    assert done == ["compute", "compute", "write", "write"]  # other processes must not wait for a part to be written


def test_foreign_modules_are_refused_with_the_remedy(tmp_path: Path) -> None:
    class Foreign(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.weight.sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=1,
        logger=False,
        default_root_dir=tmp_path,
        callbacks=[MisclassifiedImages()],
    )
    with pytest.raises(UsageError, match=r"ImageClassifier\(\.\.\.\), datamodule=ImageDataModule"):
        trainer.fit(Foreign(), datamodule=ImageDataModule("digits", val_size=0, num_workers=0, image_size=8))


def analysis(splits: DataSplits, wrong: int) -> Any:
    """What the callbacks look at, with the first `wrong` test images misclassified."""
    labels = splits.test.labels
    table = np.full((len(labels), 3), 0.05)
    table[np.arange(len(labels)), [(y + (i < wrong)) % 3 for i, y in enumerate(labels)]] = 0.9
    return SimpleNamespace(
        test=Predictions(np.arange(len(labels)), labels, np.log(table)),
        data=SimpleNamespace(splits=splits, image_size=32),
        net=ResNet18(3, splits.mean, splits.std, stem="imagenet").eval(),
        weights="best weights, epoch 1",
    )


class Drawn(Report):
    """Keeps the figures instead of writing them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SimpleNamespace(loggers=[]))
        self.titles: dict[str, list[str]] = {}
        self.texts: dict[str, str] = {}

    def figure(self, name: str, figure: Any) -> None:
        self.titles[name] = [axis.get_title() for axis in figure.axes if axis.images]
        self.texts[name] = " ".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize(("wrong", "k", "drawn"), [(30, 10, 10), (30, 20, 20), (30, 7, 7), (4, 10, 4), (1, 10, 1)])
def test_the_same_k_images_are_shown_and_explained(
    splits: DataSplits, tmp_path: Path, wrong: int, k: int, drawn: int
) -> None:
    report = Drawn(tmp_path)
    for callback in (MisclassifiedImages(k), GradCAMGrid(k)):
        callback.write(analysis(splits, wrong), report)
    assert set(report.titles) == {"misclassified", "gradcam_true", "gradcam_predicted", "gradcam_layer1"}
    assert len(report.titles["misclassified"]) == drawn
    assert all(titles == report.titles["misclassified"] for titles in report.titles.values())
    assert report.titles["misclassified"][0] == "ape → bee\n90%"
    assert len((tmp_path / "misclassified.csv").read_text().splitlines()) == wrong + 1


def test_no_error_at_all_gives_a_sentence(splits: DataSplits, tmp_path: Path) -> None:
    report = Drawn(tmp_path)
    for callback in (MisclassifiedImages(), GradCAMGrid()):
        callback.write(analysis(splits, 0), report)
    assert report.texts["misclassified"].startswith("No test image is misclassified")
    assert report.texts["gradcam_true"].startswith("No error to explain")
    assert (tmp_path / "misclassified.csv").read_text().splitlines() == [
        "index,true,predicted,probability_true,probability_predicted,loss"
    ]


@pytest.mark.parametrize("callback", [SampleImages, MisclassifiedImages, GradCAMGrid])
def test_k_below_1_is_refused(callback: Any) -> None:
    with pytest.raises(UsageError, match=r"\.k must be 1 or more, got 0"):
        callback(k=0)
