"""The folder of a Space: complete, small, and independent of this project."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import cifar_lit
from cifar_lit.demo import main
from cifar_lit.models.temperature import Temperature, store
from cifar_lit.web import page
from cifar_lit.web.space import find_modules, requirements
from cifar_lit.web.views import Views
from tests.conftest import copy_run

# Runs app.py without the packages of the training, and requests the page.
RUN_APP = """
import json, runpy, sys, urllib.request
for name in ("pytorch_lightning", "lightning_fabric", "albumentations", "torchmetrics", "jsonargparse", "tensorboard"):
    sys.modules[name] = None  # an import of it fails
sys.path.insert(0, ".")
import gradio

def request(blocks):
    print(urllib.request.urlopen(blocks.local_url).read().decode())
    blocks.close(verbose=False)

gradio.Blocks.block_thread = request  # instead of waiting
runpy.run_path("app.py")
print({module.__file__ for name, module in sys.modules.items() if name.startswith("cifar_lit")})
"""


@pytest.fixture(scope="module")
def space(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = copy_run(finished_run, tmp_path_factory.mktemp("run"))
    store(run / "checkpoints", cifar_lit.load(run, "cpu").fingerprint, Temperature(2.5, 2.0, 3.0, 200))
    folder = tmp_path_factory.mktemp("out") / "space"
    main([str(run), "--space", str(folder)])
    return folder


def test_space_is_complete_and_has_no_training_code(space: Path, finished_run: Path) -> None:
    assert {file.name for file in space.iterdir()} == {
        *("app.py", "requirements.txt", "README.md", "content.json", "examples", "errors", "cifar_lit"),
        *("model.ckpt", "temperature.json"),
    }
    assert cifar_lit.load(space / "model.ckpt", "cpu").temperature == 2.5
    assert len(list((space / "examples").iterdir())) == 10 and 1 < len(list((space / "errors").iterdir())) <= 100
    packages = {file.relative_to(space).parts[1] for file in space.rglob("*.py") if file.name != "app.py"}
    assert packages == {"__init__.py", "analysis", "data", "inference", "models", "report", "utils", "web"}
    code = "".join(file.read_text() for file in space.rglob("*.py"))
    assert not any(word in code for word in ("DataModule(", "optim.", "albumentations.", "backward("))
    whole = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)
    part = torch.load(space / "model.ckpt", weights_only=True)
    assert set(part) == {"state_dict", "hyper_parameters", "ImageDataModule"}
    assert all((part["state_dict"][name] == whole["state_dict"][name]).all() for name in part["state_dict"])
    lines = (space / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines)
    assert {"gradio", "grad-cam", "numpy", "pillow", "torch", "torchvision"} <= set(pinned)
    assert not {"pytorch-lightning", "albumentations", "tensorboard"} & set(pinned)
    front = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert front["sdk"] == "gradio" and front["sdk_version"] == pinned["gradio"] and front["app_file"] == "app.py"
    assert front["pipeline_tag"] == "image-classification" and front["license"] == "mit"
    assert len(front["short_description"]) <= 60  # or it is refused


def test_checkbox_is_shown_only_with_a_temperature(make_views: Callable[..., Views]) -> None:
    views = make_views()
    for temperature in (None, 1.37):
        views.classifier.temperature = temperature
        box = page._calibrated_checkbox(views)
        assert box.visible is ("1.37" in str(box.info)) is bool(temperature)


def test_modules_are_those_that_are_imported() -> None:
    modules = find_modules("cifar_lit.web.server")
    assert all(file.is_file() for file in modules.values())
    assert {"cifar_lit", "cifar_lit.web", "cifar_lit.web.page", "cifar_lit.inference.classifier"} <= set(modules)
    assert not any(name.startswith(("cifar_lit.training", "cifar_lit.callbacks", "cifar_lit.cli")) for name in modules)
    assert all(line.count("==") == 1 and "+" not in line for line in requirements(modules))


@pytest.mark.slow
def test_space_runs_from_its_folder_alone(space: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(space, tmp_path / "elsewhere"))
    done = subprocess.run([sys.executable, "-I", "-c", RUN_APP], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ResNet-18, demo/version_0" in done.stdout and "Evidence for" in done.stdout
    assert "Calibrated probabilities" in done.stdout and "temperature 2.5," in done.stdout
    assert str(Path(cifar_lit.__file__).parent) not in done.stdout
