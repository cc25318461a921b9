"""python -m cifar_lit.export: every format gives what the network gives, and its card has the run's numbers."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cifar_lit.export import main
from cifar_lit.inference import export
from cifar_lit.report.results import RunResults

WITHOUT_TORCH = """
import json, sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
outputs = session.run(None, {"images": np.load(sys.argv[2])})[0]
values = session.get_modelmeta().custom_metadata_map
assert "torch" not in sys.modules
print(json.dumps([outputs.tolist(), json.loads(values["classes"]), values["image_size"]]))
"""


@pytest.fixture(scope="module")
def results(finished_run: Path) -> RunResults:
    return RunResults.load(finished_run)


@pytest.fixture(scope="module")
def expected(results: RunResults) -> np.ndarray:
    with torch.inference_mode():
        return results.network(torch.from_numpy(results.test_images.images[:3])).softmax(1).numpy()


def images(results: RunResults) -> np.ndarray:
    return results.test_images.images[:3]


@pytest.mark.slow
def test_onnx_runs_without_torch(
    finished_run: Path, results: RunResults, expected: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(finished_run), "--format", "onnx", "--out", str(tmp_path / "out")])
    output = capsys.readouterr().out
    assert "same predictions for 360 test images" in output and "64 images: " in output
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"model.onnx", "README.md"}
    np.save(tmp_path / "images.npy", images(results))
    command = [sys.executable, "-c", WITHOUT_TORCH, tmp_path / "out" / "model.onnx", tmp_path / "images.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    outputs, classes, size = json.loads(done.stdout)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert tuple(classes) == results.classes and size == str(results.data.image_size)


@pytest.mark.slow
def test_torch_program_takes_any_batch(
    finished_run: Path, results: RunResults, expected: np.ndarray, tmp_path: Path
) -> None:
    main([str(finished_run), "--format", "torch", "--logits", "--out", str(tmp_path)])
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    for count in (1, 3):
        logits = program(torch.from_numpy(images(results)[:count]))
        np.testing.assert_allclose(logits.softmax(1).detach(), expected[:count], atol=1e-5)
    assert json.loads(extra["metadata.json"])["output"] == "logits (N, C)"


def test_card_has_the_numbers_of_the_run(
    finished_run: Path, results: RunResults, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main([str(finished_run), "--format", "safetensors", "--out", str(tmp_path), "--license", "cc0-1.0"])
    card = (tmp_path / "README.md").read_text()
    _, header, text = card.split("---\n", 2)
    values = yaml.safe_load(header)
    metrics = json.loads((finished_run / "report" / "metrics.json").read_text())["test"]
    (result,) = values["model-index"][0]["results"]
    assert values["license"] == "cc0-1.0" and values["pipeline_tag"] == "image-classification"
    assert result["metrics"][0]["value"] == pytest.approx(metrics["accuracy"], abs=1e-4)
    assert result["dataset"]["revision"] == results.fingerprints["test"]
    assert f"{len(results.test.errors):,} of 360 test images are misclassified" in text
    namespace: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(text.split("```python\n")[1].split("```")[0], namespace)  # as a reader would
    with torch.inference_mode():
        outputs = namespace["net"](torch.from_numpy(images(results))).softmax(1).numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_export_that_differs_leaves_no_file(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(file: Path) -> export.Run:
        run = export._load_safetensors(file)
        return lambda images: run(images) * np.float32(0.999)

    monkeypatch.setitem(export.FORMATS, "safetensors", replace(export.FORMATS["safetensors"], load=load))
    with pytest.raises(SystemExit, match="1"):
        main([str(finished_run), "--format", "safetensors", "--out", str(tmp_path / "out")])
    assert "the export differs from the network: 0 of 360 predictions, and probabilities" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_package_and_run_are_named(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for run, message in ((finished_run, "pip install 'cifar_lit[export]'"), (tmp_path / "x", "no such folder")):
        with pytest.raises(SystemExit, match="2"):
            main([str(run), "--format", "safetensors", "--out", str(tmp_path / "out")])
        assert message in capsys.readouterr().err
        monkeypatch.undo()
    assert not (tmp_path / "out").exists()
