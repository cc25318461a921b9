import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison import figures_left_blank
from filelock import FileLock
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import nn
from torchvision.models import resnet18

from cifar_lit.analysis.predictions import Predictions
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import DataSplits, Split
from cifar_lit.models.resnet import ResNet18
from cifar_lit.report.epochs import EpochRow
from cifar_lit.report.provenance import Provenance
from cifar_lit.report.results import RunResults

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"

# The smallest useful run: built-in images, the cheap stem, a few steps.
QUICK = [
    "--config",
    str(CONFIGS / "demo.yaml"),
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=3",
    "--trainer.precision=32-true",  # what is asserted must not depend on what the machine is best at
    "--trainer.log_every_n_steps=1",
    "--data.num_workers=0",
    "--misclassified.k=3",
    "--page.num_cams=5",
    "--report=quick",
]
# For tests that do not look at the report's CAMs and figures: smaller images, at which deep layers are a single pixel.
BRIEF = [*QUICK, "--data.image_size=16", "--page.num_cams=0", "--projector.num_images=0", "--misclassified.k=1"]
BRIEF += ["--samples.k=1"]

# For a Trainer on the CPU that prints and logs nothing.
QUIET_TRAINER: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Tiny(nn.Module):
    """A network that takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(images.float().mean((1, 2)))


class SaveEpochs(Checkpoint):
    """Saves `0.ckpt`, `1.ckpt`, ... at the ends of epochs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt", weights_only=False)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run, shared by all test processes, which tests must not change; see `copy_run`."""
    from cifar_lit.fit import main

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        if not folder.exists():
            folder.mkdir()
            patch.chdir(folder)
            patch.delenv("PL_GLOBAL_SEED", raising=False)
            main(QUICK)
    return folder / "lightning_logs" / "demo" / "version_0"


def copy_run(run: Path, folder: Path) -> Path:
    """Copy a run to the same place below another folder; link its checkpoints of 180 MB, which are never changed."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".ckpt") else shutil.copy2)(source, target)

    return Path(shutil.copytree(run, folder / run.relative_to(run.parents[2]), copy_function=copy))


@pytest.fixture(scope="session")
def torchvision_state() -> dict[str, torch.Tensor]:
    """The `state_dict` of torchvision's ResNet-18 for 1,000 classes, with random weights."""
    torch.manual_seed(1)
    return resnet18().state_dict()


@pytest.fixture
def imagenet_weights(
    torchvision_state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A file that stands for ImageNet's weights, in the cache of torch.hub; it cannot be downloaded."""
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(torchvision_state, folder / "weights")
    name = f"resnet18-{sha256((folder / 'weights').read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("cifar_lit.models.pretrained.URL", f"http://127.0.0.1:9/{name}")
    return (folder / "weights").rename(folder / name)


@pytest.fixture
def blank_figures() -> Iterator[None]:
    with figures_left_blank():
        yield


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_figures: None) -> Callable[..., Path]:
    """Run `main` with arguments in an empty folder, and return the newest run's folder."""
    from cifar_lit.fit import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)

    def run(*args: str) -> Path:
        main(list(args))
        runs = sorted(tmp_path.glob("lightning_logs/*/version_*"), key=os.path.getctime)
        return runs[-1]

    return run


@pytest.fixture(scope="session")
def splits() -> DataSplits:
    """Random images of three classes: 60 to train on, 30 to test."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        return Split(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 3)

    return DataSplits(split(60), split(30), ("ape", "bee", "cat"), (0.5, 0.5, 0.5), (0.3, 0.3, 0.3))


@pytest.fixture(scope="session")
def make_results(splits: DataSplits) -> Callable[..., RunResults]:
    """Return a function that makes results in which every third test image, or the first `wrong`, is misclassified."""

    def make(wrong: int | None = None, **changes: Any) -> RunResults:
        torch.manual_seed(0)
        shown = DataSplits(splits.train, splits.test, changes.get("classes", splits.classes), splits.mean, splits.std)
        data = ImageDataModule("digits", val_size=0)
        vars(data)["splits"] = changes.pop("splits", shown)  # a cached property
        labels, size = data.splits.test.labels, len(data.splits.classes)
        rows = np.arange(len(labels))
        table = (
            np.random.default_rng(0).uniform(0.05, 0.3, (len(labels), size))
            if wrong is None
            else np.full((len(labels), size), 0.1 / (size - 1))
        )
        misclassified = rows % 3 == 0 if wrong is None else rows < wrong
        table[rows, (labels + misclassified) % size] = 1.2 if wrong is None else 0.9
        test = Predictions(rows, labels, np.log(table / table.sum(axis=1, keepdims=True)))
        net = ResNet18(size, splits.mean, splits.std, stem="imagenet").eval().requires_grad_(False)
        results = RunResults(
            name="demo/version_0",
            classes=data.splits.classes,
            weights="best weights, epoch 3",
            parameters=11,
            fingerprints={name: getattr(data.splits, name).fingerprint for name in ("train", "test")},
            epochs=tuple(EpochRow(i + 1, 2.0, 0.1, 2 - i / 3, i / 4, None, None, 500.0, 0.01) for i in range(3)),
            test=test,
            train=test,
            test_flip_tta=None,
            provenance=Provenance("", ({"command": "python -m cifar_lit.fit", "commit": "0123", "gpus": []},)),
            data=data,
            load_network=lambda: net,
        )
        return replace(results, **changes)

    return make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow, which take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests unless --slow is given; begin with long files, so that no process ends alone with one."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    if not config.getoption("slow"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    items.sort(key=lambda item: (item.path not in long, item.path.parent.name not in ("scripts", "tests")))
