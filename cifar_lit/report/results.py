"""The results of a run as one typed value: every figure, table and page is a function of it."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cifar_lit.analysis import confidence, temperature
from cifar_lit.analysis.confidence import Confidence
from cifar_lit.analysis.gradcam import activation_maps, default_layer
from cifar_lit.analysis.predictions import Predictions, read_csv
from cifar_lit.analysis.temperature import Temperature
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import Split
from cifar_lit.models.resnet import Layer, ResNet18
from cifar_lit.models.weights import load_network
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.training import run_folder
from cifar_lit.training.lr_finder import LRRange
from cifar_lit.utils.errors import UsageError


@dataclass(frozen=True)
class EpochRow:
    """Metrics of one epoch.

    Attributes:
        epoch: Counted from 1.
        seconds: Duration of the epoch, validation included.
        lr: Learning rate of the first parameter group at the end of the epoch.
        train_loss: Mean loss over the augmented training images, in nats.
        train_accuracy: Fraction of them that was classified correctly, 0..1.
        val_loss: Mean cross entropy over the validation images, in nats; None in an epoch without validation.
        val_accuracy: Fraction of them that was classified correctly, 0..1; None likewise.
        images_per_second: Training images per second over all processes, validation excluded.
        data_time_fraction: Fraction of the training time spent waiting for the next batch, 0..1.
    """

    epoch: int
    seconds: float
    lr: float | None
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    images_per_second: float
    data_time_fraction: float


@dataclass(frozen=True)
class Provenance:
    """What ran, with which options, on which hardware.

    Attributes:
        config: The text of `config.yaml`; empty if the run was not started from the command line.
        parts: Command, commit, versions and hardware of the run, then of each time that it was resumed.
        report_command: The command that created the report, if it was not the training itself.
    """

    config: str
    parts: tuple[dict[str, Any], ...]
    report_command: str | None = None

    @classmethod
    def load(cls, run: Path) -> "Provenance":
        """Read `config.yaml` and every `provenance*.json` of a run's folder."""
        return cls(
            (run / "config.yaml").read_text(encoding="utf-8"),
            tuple(json.loads(file.read_text(encoding="utf-8")) for file in run_folder.parts(run, "provenance.json")),
        )

    @property
    def options(self) -> dict[str, Any]:
        """The options of `config.yaml`, nested as there; empty if there is none."""
        return yaml.safe_load(self.config) or {}

    @property
    def hardware(self) -> str:
        """The GPUs, or else the CPU, of the first part."""
        first = self.parts[0]
        return ", ".join(first.get("gpus") or []) or str(first.get("cpu"))


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
        lr_range: The learning-rate range test, if it ran.
        val: Predictions for the held-out images; None if there are none, or they were not requested.
        temperature: Fitted to `val`, or stored for these weights before; None if there is none.
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

    @cached_property
    def scaled(self) -> Predictions | None:
        """Predictions for the test images after temperature scaling; None if there is no temperature."""
        return temperature.apply(self.test, self.temperature.value) if self.temperature else None

    @cached_property
    def confidence(self) -> Confidence:
        """How far the confidence can be trusted on the test images, before and after scaling."""
        return confidence.assess(self.test, self.scaled)

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
        """The deepest layer whose CAM is larger than 5 px."""
        return default_layer(self.network, self.data.image_size)

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
        given = Path(path)
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
        options = provenance.options
        if report.name != "report" and (report / "config.yaml").exists():  # an evaluation, perhaps on other images
            options["data"] = yaml.safe_load((report / "config.yaml").read_text(encoding="utf-8"))["data"]
            provenance = replace(provenance, config=yaml.safe_dump(options, sort_keys=False))
        data = ImageDataModule(**data_options(run, options))
        data.test_only = "train" not in metrics["fingerprints"]
        test, classes = read_csv(report / "predictions.csv")
        flip_tta, val = report / "predictions_flip_tta.csv", report / "predictions_val.csv"
        fitted = metrics.get("temperature")  # reports of earlier versions have none
        where = run.resolve()
        name = f"{where.parent.name}/{where.name}" + (f"/{report.name}" if report.name != "report" else "")
        return cls(
            name=name,
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
            load_network=lambda: load_network(str(run / "checkpoints" / f"{metrics['weights'].split()[0]}.ckpt")).net,
            lr_range=read_lr_range(report / "lr_find.csv"),
            val=read_csv(val)[0] if val.exists() else None,
            temperature=Temperature(**fitted) if fitted else None,
        )


def data_options(run: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ImageDataModule from a run's options, to be used from any folder."""
    data: dict[str, Any] = dict(options["data"])
    if data.get("seed") is None:
        data["seed"] = options["seed_everything"]
    return data | {name: run_folder.data_path(run, data[name]) for name in run_folder.PATHS}


def read_epochs(file: Path) -> tuple[EpochRow, ...]:
    """Read `history.csv`; empty if there is none."""
    if not file.exists():
        return ()
    with open(file, newline="", encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = [
            {name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(lines)
        ]
    return tuple(EpochRow(**{**row, "epoch": int(row["epoch"])}) for row in rows)


def read_lr_range(file: Path) -> LRRange | None:
    """Read `lr_find.csv`; None if there is none."""
    if not file.exists():
        return None
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    lrs = np.array([float(row["lr"]) for row in rows])
    losses = np.array([float(row["loss"]) for row in rows], dtype=np.float32)
    return LRRange(lrs, losses, next(float(row["lr"]) for row in rows if row["suggested"] == "True"))
