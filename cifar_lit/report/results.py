"""The results of a run as one typed value: every figure, table and page is a function of it."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis import confidence, duplicates, slices, temperature
from cifar_lit.analysis.confidence import Confidence
from cifar_lit.analysis.duplicates import Duplicates
from cifar_lit.analysis.evidence import Evidence
from cifar_lit.analysis.gradcam import activation_maps, default_layer
from cifar_lit.analysis.predictions import Predictions, read_csv
from cifar_lit.analysis.slices import Slice
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import Split
from cifar_lit.models.resnet import Layer, ResNet18
from cifar_lit.models.temperature import Temperature
from cifar_lit.models.weights import load_network
from cifar_lit.report.epochs import EpochRow, read_epochs
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.report.provenance import Provenance, data_options
from cifar_lit.training.lr_finder import LRRange, read_lr_range
from cifar_lit.training.run_folder import run_name
from cifar_lit.utils.errors import UsageError


@dataclass(frozen=True)
class RunResults(ErrorResults):
    """The results of a trained network, and everything needed to draw them.

    Attributes:
        name: Recipe and version, such as `onecycle/version_0`.
        parameters: Number of trained parameters.
        fingerprints: Hash of the images and labels of `test`, and of `train` if training images were evaluated.
        epochs: Metrics of each epoch.
        train: Predictions for some training images, without augmentation; None on other data than in training.
        test_flip_tta: Predictions for the test images with flip TTA; None if it was not requested.
        provenance: What ran, with which options, on which hardware.
        data: Source of the images.
        load_network: Returns the network, in evaluation mode, in float32, without gradients.
        lr_range: The learning rate range test, if it ran.
        load_evidence: Computes, or reads, what says that the CAMs can be trusted.
        checkpoint: File of the network; None if it was not saved.
        val: Predictions for the validation images; None if there are none, or they were not requested.
        temperature: Fitted to `val`, or stored for these weights before; None if there is none.
        load_duplicates: Returns the near-duplicates of training images; None if they were not requested.
        known: Predictions with features for training images, among which nearest neighbors are looked up; None if that
            was not requested, or the report was read from the disk.
    """

    name: str
    parameters: int
    fingerprints: dict[str, str]
    epochs: tuple[EpochRow, ...]
    train: Predictions | None
    test_flip_tta: Predictions | None
    provenance: Provenance
    data: ImageDataModule = field(repr=False)
    load_network: Callable[[], ResNet18] = field(repr=False)
    lr_range: LRRange | None = None
    val: Predictions | None = None
    temperature: Temperature | None = None
    load_duplicates: Callable[[], Duplicates | None] = field(default=lambda: None, repr=False)
    known: Predictions | None = field(default=None, repr=False)
    load_evidence: Callable[["RunResults"], Evidence] = field(default=lambda _: Evidence(), repr=False)
    checkpoint: Path | None = None

    @cached_property
    def evidence(self) -> Evidence:
        """What says that the CAMs can be trusted; computed when first used, which takes minutes."""
        return self.load_evidence(self)

    @cached_property
    def scaled(self) -> Predictions | None:
        """Predictions for the test images after temperature scaling; None if there is no temperature."""
        return temperature.apply(self.test, self.temperature.value) if self.temperature else None

    @cached_property
    def confidence(self) -> Confidence:
        """How far the confidence can be trusted on the test images, before and after scaling."""
        return confidence.assess(self.test, self.scaled)

    @cached_property
    def slices(self) -> list[Slice]:
        """The accuracy on slices of the test images."""
        correct = self.test.predicted == self.test.labels
        return slices.find(self.test_images.images[self.test.indices], correct)

    @cached_property
    def duplicates(self) -> Duplicates | None:
        """Test images with near-duplicates among the training images; None if that was not requested."""
        return self.load_duplicates()

    @property
    def without_duplicates(self) -> Predictions | None:
        """Predictions for the test images without near-duplicates; None if they are unknown, or no others are left."""
        if self.duplicates is None:
            return None
        kept = ~np.isin(self.test.indices, self.duplicates.test)
        return self.test.take(kept) if kept.any() else None

    @cached_property
    def network(self) -> ResNet18:
        """The network, in evaluation mode, in float32, without gradients."""
        return self.load_network()

    @cached_property
    def test_images(self) -> Split:
        """The test images.

        Raises:
            UsageError: They are no longer those that were evaluated.
        """
        images = self.data.splits.test
        if images.fingerprint != self.fingerprints["test"]:
            raise UsageError(f"data.root={self.data.root}: the test images there are no longer those of {self.name}")
        return images

    @property
    def files(self) -> Sequence[str] | None:
        """File names of the test images, by index; None if they are no files."""
        return self.test_images.files

    @property
    def default_layer(self) -> Layer:
        """Of the layers whose CAM is larger than 5 px the one that localizes best; unknown, the deepest."""
        return self.evidence.layer or default_layer(self.network, self.data.image_size)

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of rows of `test`: `(N, H, W, 3)`, uint8."""
        return self.test_images.images[self.test.indices[rows]]

    def cams(self, rows: NDArray[np.int64], layers: Sequence[Any], method: str) -> dict[Any, NDArray[np.float32]]:
        """Return the CAMs for the true and the predicted class; see `activation_maps`."""
        return activation_maps(self.network, self.images(rows), self.test.target_classes(rows), layers, method)

    @property
    def seconds(self) -> float:
        """Duration of all epochs."""
        return sum(row.seconds for row in self.epochs)

    @classmethod
    def load(cls, path: str | Path) -> "RunResults":
        """Read a run's folder with its report, or a later report in it, such as `RUN/evaluation_1`.

        Images and weights are read when first used.

        Raises:
            UsageError: There is no complete report.
        """
        given = Path(os.path.expanduser(path))
        if not given.is_dir():
            raise UsageError(f"{path}: there is no such folder; use lightning_logs/RECIPE/version_N")
        evaluation = (given / "metrics.json").exists()
        run, report = (given.absolute().parent, given) if evaluation else (given, given / "report")
        try:
            return cls._read(run, report)
        except (OSError, ValueError, KeyError) as error:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            reason = f"{getattr(error, 'filename', None) or report}: {reason}"
            remedy = "it has no checkpoints to create it from; use another run"
            if any(run.glob("checkpoints/*.ckpt")):
                remedy = f"create it with python -m cifar_lit.evaluate {run}, and use the folder it writes"
            raise UsageError(f"{path} has no complete report ({reason}); {remedy}") from None

    @classmethod
    def _read(cls, run: Path, report: Path) -> "RunResults":
        metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
        provenance = Provenance.load(run)
        if report.name != "report" and (report / "config.yaml").exists():  # an evaluation, perhaps on other images
            provenance = provenance.override((report / "config.yaml").read_text(encoding="utf-8"))
        data = ImageDataModule(**data_options(run, provenance.options))
        data.test_only = "train" not in metrics["fingerprints"]
        test, classes = read_csv(report / "predictions.csv")
        data.network_classes = classes
        flip_tta, val = report / "predictions_flip_tta.csv", report / "predictions_val.csv"
        file = metrics["checkpoint"]
        checkpoint = Path(os.path.normpath(report / file)) if file else None
        return cls(
            name=run_name(run) + (f"/{report.name}" if report.name != "report" else ""),
            classes=classes,
            weights=metrics["weights"],
            parameters=metrics["parameters"],
            fingerprints=metrics["fingerprints"],
            epochs=read_epochs(report / "history.csv"),
            test=test,
            train=None if data.test_only else read_csv(report / "predictions_train.csv")[0],
            test_flip_tta=read_csv(flip_tta)[0] if flip_tta.exists() else None,
            provenance=provenance,
            data=data,
            load_network=lambda: load_network(str(checkpoint or run), "RUN").net,
            lr_range=read_lr_range(report / "lr_find.csv"),
            load_evidence=lambda _: Evidence.read(report / "evidence.json"),
            checkpoint=checkpoint,
            val=read_csv(val)[0] if val.exists() else None,
            temperature=Temperature(**metrics["temperature"]) if metrics["temperature"] else None,
            load_duplicates=lambda: duplicates.read_csv(report / "near_duplicates.csv"),
        )
