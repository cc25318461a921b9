"""Where figures and numbers go: files, and loggers of every kind."""

import io
import json
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.loggers import (
    CometLogger,
    CSVLogger,
    LitLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import RunError

STEP = 60
SCORES = {"test/accuracy": 0.75, "test/loss": 0.5}
LOGGED = {name: (value, STEP) for name, value in SCORES.items()}


@pytest.fixture
def gray() -> Figure:
    """Without black and white, so that a logger that stretches the values is noticed."""
    figure = Figure(figsize=(3, 2), facecolor="0.4")
    figure.text(0.1, 0.5, "confusion", color="0.7", size=20)
    return figure


def read_png(file: Path | io.BytesIO) -> NDArray[np.uint8]:
    return np.asarray(Image.open(file))


class Recorder(Logger):
    """Keeps the numbers, and takes no images."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        self.metrics: dict[str, tuple[float, int | None]] = {}
        self.images: dict[str, tuple[NDArray[np.uint8], int | None]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.update({name: (value, step) for name, value in metrics.items()})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the report has no options")


# The signatures and checks below are those of mlflow 3.17, comet_ml 3.58 and litlogger 2026.8.


class FakeMlflow(Recorder, MLFlowLogger):
    run_id = "0a1b"

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(log_image=self._log_image)

    def _log_image(
        self,
        run_id: str,
        image: Any,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
        synchronous: bool | None = None,
    ) -> None:
        assert run_id == self.run_id
        if (artifact_file is None) == (key is None) or (artifact_file and (step is not None or timestamp is not None)):
            raise TypeError("either artifact_file, or key with step and timestamp")
        if isinstance(image, np.ndarray):
            channels = image.shape[2] if image.ndim == 3 else image.ndim - 1
            if image.dtype.kind not in "biuf" or channels not in (1, 3, 4):
                raise ValueError(f"invalid array: {image.dtype} {image.shape}")
        elif not isinstance(image, Image.Image):
            raise TypeError(f"unsupported image: {type(image)}")
        assert key is not None and re.fullmatch(r"[\w\-./ ]+", key, re.ASCII)
        self.images[key] = (np.asarray(image), step)


class FakeComet(Recorder, CometLogger):
    @property
    def experiment(self) -> Any:
        return SimpleNamespace(log_image=self._log_image)

    def _log_image(
        self,
        image_data: Any,
        name: str | None = None,
        overwrite: bool = False,
        image_format: str = "png",
        image_scale: float = 1.0,
        image_shape: tuple[int, int] | None = None,
        image_colormap: str | None = None,
        image_minmax: tuple[int, int] | None = None,
        image_channels: str = "last",
        copy_to_tmp: bool = True,
        step: int | None = None,
        annotations: list[Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(image_data, np.ndarray):
            assert image_channels == "last" and image_data.shape[2] in (1, 3, 4)
            low, high = image_minmax or (image_data.min(), image_data.max())
            image_data = ((image_data - float(low)) / (high - low) * 255).astype(np.uint8)
        elif not isinstance(image_data, Image.Image):
            raise TypeError(f"unsupported image: {type(image_data)}")
        assert name is not None
        self.images[name] = (np.asarray(image_data), step)


class FakeLitImage:
    def __init__(self, data: Any, format: str = "png", description: str = "") -> None:
        if not isinstance(data, np.ndarray | Image.Image | str):
            raise TypeError(f"unsupported image: {type(data)}")
        self.data = data


class FakeLit(Recorder, LitLogger):
    @property
    def experiment(self) -> Any:
        outer = self

        class Series:
            def __init__(self, key: str) -> None:
                self.key = key

            def append(self, value: Any, step: int | None = None) -> None:
                if not isinstance(value, FakeLitImage):
                    raise TypeError(f"a series takes numbers or files, got {type(value)}")
                outer.images[self.key] = (np.asarray(value.data), step)

        class Experiment:
            def __getitem__(self, key: str) -> Series:
                return Series(key)

        return Experiment()


class ImageRecorder(Recorder):
    """Of unknown kind, with WandbLogger's `log_image`."""

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        if not isinstance(images, list):
            raise TypeError("images must be a list")
        assert not kwargs
        self.images[key] = (np.asarray(images[0]), step)


class OtherSignature(Recorder):
    """Of unknown kind, with another `log_image`."""

    def log_image(self, run: str, image: Any) -> None:
        raise AssertionError("called")


class Failing(ImageRecorder):
    """Cannot reach its server."""

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        raise ConnectionError("no route to host")


def write(folder: Path, loggers: Sequence[Logger], figure: Figure) -> tuple[ReportWriter, NDArray[np.uint8]]:
    """Write a figure and scores; return the writer and the pixels on the disk."""
    writer = ReportWriter(folder, loggers, STEP)
    writer.figure("confusion", figure)
    writer.scalars(SCORES)
    return writer, read_png(folder / "confusion.png")


@pytest.mark.parametrize("kind", [FakeMlflow, FakeComet, FakeLit, ImageRecorder])
def test_loggers_get_images_and_scalars(
    kind: type[Recorder], gray: Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litlogger", SimpleNamespace(Image=FakeLitImage))
    logger = kind()
    writer, pixels = write(tmp_path, [logger], gray)
    assert not writer.failures
    assert logger.metrics == LOGGED
    (name, (image, step)), *others = logger.images.items()
    assert (name, step, others) == ("report/confusion", STEP, [])
    assert image.dtype == np.uint8 and np.array_equal(image, pixels)


def test_tensorboard_gets_images_and_scalars(gray: Figure, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    writer, pixels = write(tmp_path / "report", [logger], gray)
    assert not writer.failures
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0}).Reload()
    (event,) = events.Images("report/confusion")
    assert event.step == STEP and np.array_equal(read_png(io.BytesIO(event.encoded_image_string)), pixels)
    scalars = {name: events.Scalars(name)[0] for name in SCORES}
    assert {name: (one.value, one.step) for name, one in scalars.items()} == LOGGED


def test_loggers_without_images_get_scalars(gray: Figure, tmp_path: Path) -> None:
    csv, plain, other = CSVLogger(tmp_path, name="csv", version=""), Recorder(), OtherSignature()
    writer, _ = write(tmp_path / "report", [csv, plain, other], gray)
    csv.save()
    assert not writer.failures
    assert (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[1] == f"{STEP},0.75,0.5"
    assert plain.metrics == other.metrics == LOGGED


def test_failing_logger_loses_nothing_else(gray: Figure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ImageRecorder()
    writer, pixels = write(tmp_path, [Failing(), good], gray)
    assert good.metrics == LOGGED and np.array_equal(good.images["report/confusion"][0], pixels)
    assert writer.figures == ["confusion"]
    assert writer.failures == dict.fromkeys(("Failing (confusion)", "Failing (scalars)"), "no route to host")
    assert "report: Failing (confusion) could not be created: no route to host" in capsys.readouterr().err
    assert "ConnectionError" in (tmp_path / "failures.txt").read_text()
    with pytest.raises(RunError, match=r"Failing \(confusion\), Failing \(scalars\)"):
        writer.raise_if_failed("the training is kept")


@pytest.mark.slow
def test_wandb_gets_images_and_scalars(gray: Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    for name, value in {"MODE": "offline", "CONSOLE": "off", "ERROR_REPORTING": "false", "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    import wandb

    logger = WandbLogger(save_dir=tmp_path, project="test")
    try:
        for step in (19, 39, 59):  # two calls a step, as at the end of an epoch
            logger.log_metrics({"val/loss": 1 / step}, step)
            logger.log_metrics({"train/loss": 1 / step}, step)
        writer, pixels = write(tmp_path / "report", [logger], gray)
        logger.experiment.finish()
    finally:
        wandb.teardown()  # ends its process
    assert not writer.failures
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    rows = list(wandb_history(log))
    (image,) = [row for row in rows if "report/confusion/filenames" in row]
    (file,) = image["report/confusion/filenames"]
    assert np.array_equal(read_png(log.parent / "files" / file), pixels)
    assert [row["trainer/global_step"] for row in rows] == [19, 19, 39, 39, 59, 59, STEP, STEP]
    assert [row["_step"] for row in rows] == list(range(8))  # it drops what does not increase
    assert {name: rows[-1][name] for name in SCORES} == SCORES


def wandb_history(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an offline run's log: protobuf messages in the format of LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    block, header = 32768, 7  # bytes
    content, position, message = log.read_bytes(), 7, b""  # after a magic number
    while position + header <= len(content):
        size, kind = struct.unpack_from("<HB", content, position + 4)  # after the checksum
        if block - position % block < header or kind == 0:  # padding
            position += block - position % block
            continue
        message += content[position + header : position + header + size]
        position += header + size
        if kind in (1, 4):  # full, last; the others are first and middle
            record = Record.FromString(message)
            if record.HasField("history"):
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            message = b""
