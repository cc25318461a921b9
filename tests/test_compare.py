"""`python -m cifar_lit.compare`: finished runs side by side."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from comparison import figures_left_blank
from scipy.stats import binom

from cifar_lit import compare
from cifar_lit.analysis import temperature
from cifar_lit.analysis.confidence import aurc
from cifar_lit.analysis.predictions import Predictions, read_csv
from cifar_lit.analysis.scores import calibration
from cifar_lit.fit import main
from cifar_lit.report.comparison import changes
from cifar_lit.report.results import RunResults
from tests.conftest import BRIEF, copy_run


@pytest.fixture(scope="module")
def runs(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two short runs."""
    folder = tmp_path_factory.mktemp("runs")
    copy_run(finished_run, folder)
    with pytest.MonkeyPatch.context() as patch, figures_left_blank():
        patch.chdir(folder)
        monitor = "--trainer.callbacks+=pytorch_lightning.callbacks.LearningRateMonitor"
        main([*BRIEF, "--data.image_size=32", "--trainer.limit_train_batches=8", monitor])
    return folder / "lightning_logs" / "demo"


def test_two_runs(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = runs / "version_0" / "report" / "metrics.json"
    fitted = {"value": 2.5, "low": 2.0, "high": 3.0, "images": 200}
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "temperature": fitted}))
    compare.main([str(runs / "version_0"), str(runs / "version_1")])
    result = json.loads(Path("compare_1/compare.json").read_text())
    one, other = (read_csv(runs / name / "report" / "predictions.csv")[0] for name in ("version_0", "version_1"))
    before, after = (set(np.flatnonzero(p.predicted != p.labels).tolist()) for p in (one, other))
    assert set(result["errors"]["fixed"]) == before - after
    assert set(result["errors"]["new"]) == after - before
    assert set(result["errors"]["stay"]) == before & after
    assert [float(x) for x in result["differences"]["trainer.limit_train_batches"]] == [3, 8]
    assert "LearningRateMonitor" in result["differences"]["trainer.callbacks"][1]
    screen = capsys.readouterr().out
    assert "trainer.limit_train_batches" in screen and f"{other.accuracy:.2%}" in screen
    assert f"{aurc(one):.4f}" in screen and f"{aurc(other):.4f}" in screen
    assert f"{calibration(temperature.apply(one, 2.5)).error:.1%}" in screen and "2.500" in screen
    html = Path("compare_1/compare.html").read_text()
    assert html.count("<img") == len(before | after)
    assert f"Stay: misclassified by both ({len(before & after)})" in html
    compare.main([str(runs / "version_0"), str(runs / "version_1"), str(runs / "version_0"), "--out", "three"])
    assert len(json.loads(Path("three/compare.json").read_text())["runs"]) == 3
    shutil.copytree(runs / "version_0", "again")
    shutil.move("again/report", "again/evaluation_1")  # as evaluate leaves it
    options = yaml.safe_load(Path("again/config.yaml").read_text())
    options = {name: options[name] for name in ("data", "gradcam")} | {"trainer": {"callbacks": []}}
    options["gradcam"]["method"] = "HiResCAM"
    Path("again/evaluation_1/config.yaml").write_text(yaml.safe_dump(options))
    compare.main(["again/evaluation_1", str(runs / "version_1")])
    evaluated = json.loads(Path("compare_2/compare.json").read_text())
    assert evaluated["errors"] == result["errors"]
    assert evaluated["differences"] == result["differences"] | {"gradcam.method": ["HiResCAM", "GradCAM"]}
    assert "again/evaluation_1" in capsys.readouterr().out


def test_exact_mcnemar_test() -> None:
    labels = np.zeros(40, dtype=np.int64)

    def wrong(rows: list[int]) -> Predictions:
        first = np.where(np.isin(np.arange(40), rows), 0.1, 0.9)
        return Predictions(np.arange(40), labels, np.log(np.stack([first, 1 - first], axis=1)))

    found = changes(wrong([*range(12)]), wrong([10, 11, 20, 21]))
    assert (found.fixed.tolist(), found.new.tolist(), found.stay.tolist()) == ([*range(10)], [20, 21], [10, 11])
    surer = np.log([[0.4, 0.6], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1]])
    ordered = Predictions(np.arange(4), labels[:4], surer)
    right = Predictions(np.arange(4), labels[:4], np.log(np.full((4, 2), (0.9, 0.1))))
    assert changes(ordered, right).fixed.tolist() == [1, 2, 0] == changes(right, ordered).new.tolist()
    assert found.p_value == pytest.approx(2 * binom.cdf(2, 12, 0.5))
    assert changes(wrong([3]), wrong([3])).p_value == 1


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as exit_:
        compare.main([str(arg) for arg in args])
    assert exit_.value.code == 2
    assert not list(Path().glob("compare_*"))
    return capsys.readouterr().err


def test_what_cannot_be_compared_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = runs / "version_0"
    assert "RUN" in refused(capsys)
    assert "at least two runs" in refused(capsys, first)
    assert "there is no such folder" in refused(capsys, first, "none")
    assert "has no complete report" in refused(capsys, first, tmp_path)
    shutil.copytree(first, "old")
    Path("old/report/metrics.json").write_text('{"test": {}}')
    assert "KeyError: 'fingerprints'" in refused(capsys, first, "old")
    shutil.copytree(first, "other")
    metrics = json.loads(Path("other/report/metrics.json").read_text())
    metrics["fingerprints"]["test"] = "0123"
    Path("other/report/metrics.json").write_text(json.dumps(metrics))
    message = refused(capsys, first, "other")
    assert "tested on different images" in message and "0123" in message


def test_images_are_found_from_another_folder(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run(finished_run, tmp_path / "old")
    (tmp_path / "old" / "mine").mkdir()
    config = (run / "config.yaml").read_text()
    config = config.replace("source: digits", "source: folder").replace("root: data", "root: mine")
    (run / "config.yaml").write_text(config)
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**provenance, "folder": str(tmp_path / "old")}))
    monkeypatch.chdir(tmp_path)
    assert RunResults.load(run).data.root == str(tmp_path / "old" / "mine")
