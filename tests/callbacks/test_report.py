"""The callbacks alone, in a user's own Trainer, and at their edges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from cifar_lit.callbacks.gradcam import GradCAMGrid
from cifar_lit.callbacks.misclassified import MisclassifiedImages
from cifar_lit.callbacks.report import Report, ReportCallback
from cifar_lit.callbacks.samples import SampleImages
from cifar_lit.callbacks.scores import Scores
from cifar_lit.callbacks.summary import Summary
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter
from cifar_lit.training.loggers import RunTensorBoardLogger
from cifar_lit.utils.errors import RunError, UsageError
from tests.conftest import QUIET_TRAINER


@pytest.mark.usefixtures("blank_figures")
def test_callbacks_in_a_plain_trainer(tmp_path: Path) -> None:
    data = ImageDataModule("digits", val_size=200, num_workers=0)
    module = ImageClassifier(data.num_classes, data.mean, data.std, stem="imagenet")
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=1,
        limit_val_batches=1,
        limit_test_batches=1,
        default_root_dir=tmp_path,
        callbacks=[MisclassifiedImages(k=3), GradCAMGrid(k=3, layers=["layer1", "layer2"]), Scores()],
        **QUIET_TRAINER,
    )
    trainer.fit(module, datamodule=data)
    names = {file.name for file in (tmp_path / "report").iterdir()}
    assert {"misclassified.csv", "gradcam_true.png", "gradcam_predicted.png"} <= names
    assert {"gradcam_layer1.png", "gradcam_layer2.png", "metrics.json"} <= names
    assert module.training and all(p.requires_grad for p in module.parameters())
    assert not any(m._forward_hooks for m in module.modules())


def test_failed_part_is_recorded_and_the_others_are_written(
    make_results: Callable[..., RunResults], tmp_path: Path
) -> None:
    class Broken(ReportCallback):
        def write(self, results: RunResults, writer: ReportWriter) -> None:
            raise RuntimeError("out of paper")

    report = Report([Broken(), MisclassifiedImages()])
    report.write(make_results(), ReportWriter(tmp_path))
    assert (tmp_path / "misclassified.png").exists()
    assert "RuntimeError: out of paper" in (tmp_path / "failures.txt").read_text()
    with pytest.raises(RunError, match="Broken"):
        report.raise_if_failed("the training is kept")
    Report([MisclassifiedImages()]).write(make_results(), ReportWriter(tmp_path))
    assert not (tmp_path / "failures.txt").exists()


def test_tensorboard_is_printed_with_the_folder_of_each_logger(
    make_results: Callable[..., RunResults], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "lightning_logs" / "demo" / "version_0"
    loggers = [RunTensorBoardLogger(str(run)), TensorBoardLogger(tmp_path / "own", "name"), CSVLogger(tmp_path)]
    with caplog.at_level("INFO"):
        Summary().write(make_results(), ReportWriter(run / "report", loggers))
    folders = [line.split()[-1] for line in caplog.messages[-1].splitlines() if "--logdir" in line]
    assert folders == [str(run.parent), str(tmp_path / "own" / "name")]


class Drawn(ReportWriter):
    """Keeps the figures instead of writing them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.titles: dict[str, list[str]] = {}
        self.texts: dict[str, str] = {}

    def figure(self, name: str, figure: Any) -> None:
        self.titles[name] = [axis.get_title() for axis in figure.axes if axis.images]
        self.texts[name] = " ".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize(("misclassified", "k", "drawn"), [(30, 7, 7), (4, 10, 4), (1, 10, 1)])
def test_same_k_images_are_drawn_and_explained(
    make_results: Callable[..., RunResults], tmp_path: Path, misclassified: int, k: int, drawn: int
) -> None:
    writer = Drawn(tmp_path)
    for callback in (MisclassifiedImages(k), GradCAMGrid(k)):
        callback.write(make_results(misclassified), writer)
    assert set(writer.titles) == {"misclassified", "gradcam_true", "gradcam_predicted", "gradcam_layer1"}
    assert len(writer.titles["misclassified"]) == drawn
    assert all(titles == writer.titles["misclassified"] for titles in writer.titles.values())
    assert writer.titles["misclassified"][0] == "ape → bee\n90%"
    assert len((tmp_path / "misclassified.csv").read_text().splitlines()) == misclassified + 1


def test_no_error_gives_a_sentence(make_results: Callable[..., RunResults], tmp_path: Path) -> None:
    writer = Drawn(tmp_path)
    for callback in (MisclassifiedImages(), GradCAMGrid()):
        callback.write(make_results(0), writer)
    assert writer.texts["misclassified"].startswith("No test image is misclassified")
    assert writer.texts["gradcam_true"].startswith("No error to explain")
    assert (tmp_path / "misclassified.csv").read_text().splitlines() == [
        "index,true,predicted,probability_true,probability_predicted,loss"
    ]


@pytest.mark.parametrize("callback", [SampleImages, MisclassifiedImages, GradCAMGrid])
def test_k_below_1_is_refused(callback: Any) -> None:
    with pytest.raises(UsageError, match=r"\.k must be 1 or more, got 0"):
        callback(k=0)
