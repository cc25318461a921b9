"""`python -m cifar_lit.evaluate`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cifar_lit
from cifar_lit import compare, evaluate, explain, predict
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.models.resnet import ResNet18
from cifar_lit.models.weights import load_network, net_state
from cifar_lit.report import figures
from cifar_lit.report.results import RunResults
from tests.cli.refused import refused
from tests.conftest import copy_run

NO_CAMS = ["--report=quick", "--page.num_cams=0", "--projector.num_images=0", "--misclassified.k=1"]


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run's folder, whose best epoch was not the last, trained on hardware that this machine lacks."""
    run = copy_run(finished_run, tmp_path_factory.mktemp("run"))
    config = (run / "config.yaml").read_text()
    assert "accelerator: auto" in config
    (run / "config.yaml").write_text(config.replace("accelerator: auto", "accelerator: tpu"))
    with open(run / "report" / "history.csv", "r+", newline="") as history:
        last = history.readlines()[-1]
        history.write("2" + last.removeprefix("1"))
    return run


def test_evaluation_of_a_run_repeats_its_report(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    evaluate.main([str(run)])
    assert "test accuracy" in caplog.text
    assert before == {file: file.stat().st_mtime_ns for file in before}
    again = run / "evaluation_1"
    names = {file.name for file in (run / "report").iterdir()}
    assert {file.name for file in again.iterdir()} == names | {"config.yaml"}
    assert "command of this report" in (again / "index.html").read_text()
    for name in ("metrics.json", "predictions.csv", "misclassified.csv", "history.csv"):
        assert (again / name).read_text() == (run / "report" / name).read_text()
    assert (again / "misclassified.png").read_bytes() == (run / "report" / "misclassified.png").read_bytes()


def test_notebook_gets_the_same_results_as_the_report(run: Path) -> None:
    nested = run / "checkpoints" / "epoch=0-val" / "best.ckpt"  # as a ModelCheckpoint of Lightning may save it
    nested.parent.mkdir()
    nested.hardlink_to(run / "checkpoints" / "best.ckpt")
    files = set(run.rglob("*"))
    results, saved = evaluate.evaluate(nested), RunResults.load(run)
    assert set(run.rglob("*")) == files  # nothing is written
    np.testing.assert_allclose(results.test.log_probabilities, saved.test.log_probabilities, rtol=1e-6)
    assert (results.epochs, results.weights) == (saved.epochs, saved.weights)
    assert len([axis for axis in figures.misclassified(results, k=4).axes if axis.images]) == 4


@pytest.mark.usefixtures("blank_figures")
def test_report_finds_its_checkpoint_whatever_its_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = run / "checkpoints" / "mine" / "my weights.ckpt"
    named.parent.mkdir()
    named.hardlink_to(run / "checkpoints" / "last.ckpt")
    monkeypatch.chdir(named.parent)
    evaluate.main([named.name, "--out", str(run / "named"), *NO_CAMS])  # with the data of its run
    saved, last = RunResults.load(run / "named"), load_network(str(named), "RUN").net.state_dict()
    assert saved.checkpoint == named and saved.weights == "my weights weights, epoch 1"
    assert all(torch.equal(last[name], value) for name, value in saved.network.state_dict().items())


def test_options_that_were_removed_are_ignored(run: Path) -> None:
    config = run / "config.yaml"
    before = config.read_text()
    config.write_text(before.replace("data:\n", "data:\n  cutout_epochs: 0\n"))
    assert evaluate.evaluate(run).test.accuracy == RunResults.load(run).test.accuracy
    config.write_text(before)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_evaluations_on_other_images_can_be_compared(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = ImageDataModule("digits").splits.test
    for row, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        (tmp_path / "mine" / "test" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image).save(tmp_path / "mine" / "test" / str(label) / f"{row}.png")
    monkeypatch.chdir(tmp_path)
    folders = {"best": "mine", "last": "mine/test"}  # no training images: a folder test, or a folder of classes
    for weights, root in folders.items():
        file, out = run / "checkpoints" / f"{weights}.ckpt", run / f"evaluation_of_{weights}"
        evaluate.main([str(file), "--out", str(out), "--data.source=folder", f"--data.root={root}", *NO_CAMS])
        assert "train" not in json.loads((out / "metrics.json").read_text())
        assert not [*out.glob("*train*"), *out.glob("failures.txt")]
    monkeypatch.chdir(run)
    compare.main([*(f"evaluation_of_{weights}" for weights in folders), "--out", str(tmp_path / "compared")])
    assert (tmp_path / "compared" / "compare.html").read_text().count("<img") > 0


@pytest.mark.usefixtures("blank_figures")
def test_test_images_may_lack_classes(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = RunResults.load(run)
    rows = np.concatenate([np.flatnonzero(saved.test.labels == label) for label in (4, 7)])
    for row in rows:
        image, label = saved.test_images.images[row], saved.test.labels[row]
        (tmp_path / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / str(label) / f"{row:03}.png")
    out = run / "evaluation_of_two"
    evaluate.main([str(run), "--out", str(out), "--data.source=folder", f"--data.root={tmp_path}", *NO_CAMS])
    assert "no test images of 8 classes, which have no accuracy: 0, 1, 2, 3, 5, ..." in caplog.text
    results = RunResults.load(out)
    assert results.classes == saved.classes
    for labels in (results.test.labels, results.test_images.labels):
        np.testing.assert_array_equal(labels, saved.test.labels[rows])
    np.testing.assert_allclose(results.test.probabilities, saved.test.probabilities[rows], atol=1e-5)
    assert not (out / "failures.txt").exists()


@pytest.mark.usefixtures("blank_figures")
def test_checkpoint_file_without_run_needs_only_data(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "some.ckpt"
    file.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    out = tmp_path / "out"
    exact = "--trainer.precision=32-true"  # that of the run
    evaluate.main([str(file), "--out", str(out), "--data.source=digits", exact, *NO_CAMS])
    assert "train" not in json.loads((out / "metrics.json").read_text())  # which images it was trained on is not known
    assert (out / "misclassified.csv").read_text() == (run / "report" / "misclassified.csv").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_flip_tta_is_reported_beside_the_plain_metrics(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate.main([str(run), "--out", str(out), "--scores.flip_tta", "true", "--data.train_eval_size=37", *NO_CAMS])
    plain, metrics = (json.loads((folder / "metrics.json").read_text()) for folder in (run / "report", out))
    averaged = metrics.pop("test_flip_tta")
    assert metrics.pop("train")["images"] == 37 and plain.pop("train")["images"] == 96
    assert metrics.pop("checkpoint") == os.path.relpath(run / "checkpoints" / "best.ckpt", out)
    del plain["checkpoint"]
    assert metrics == plain and "test_flip_tta" not in plain
    images = torch.from_numpy(ImageDataModule("digits").splits.test.images)
    net = checkpoint_net(run)
    with torch.no_grad():
        logits = (net(images) + net(images.flip(2))) / 2
    labels = torch.from_numpy(ImageDataModule("digits").splits.test.labels)
    assert averaged["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert averaged["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert averaged["loss"] != pytest.approx(plain["test"]["loss"], rel=1e-7)
    assert f"flip TTA  {averaged['accuracy']:.2%}" in caplog.text
    assert "test, flip TTA" in (out / "index.html").read_text() and "flip" in (out / "README.md").read_text()
    out.rename(run / "evaluation_9")
    compare.main([str(run), str(run / "evaluation_9"), "--out", str(tmp_path / "compared")])
    assert "flip TTA" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_fitted_temperature_and_best_layer_are_used_for_other_images(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(finished_run, tmp_path)
    net, data = checkpoint_net(run), RunResults.load(run).data
    images, labels = (torch.from_numpy(getattr(data.splits.train, name)) for name in ("images", "labels"))
    last, trained = net.backbone.fc, data.train_dataset.indices[:300]
    with torch.no_grad():  # least squares on the features of an almost untrained network, then far too confident
        net.backbone.fc = torch.nn.Identity()
        features = net(images[trained])
        targets = torch.nn.functional.one_hot(labels[trained], 10) - 0.1
        last.weight.copy_(50 * torch.linalg.lstsq(features, targets).solution.T)
        net.backbone.fc = last
    file = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["state_dict"]["net.backbone.fc.weight"] = last.weight.data
    checkpoint["state_dict"]["net.backbone.fc.bias"] = last.bias.data
    file.unlink()  # it is linked
    torch.save(checkpoint, file)

    config = run / "config.yaml"
    config.write_text(config.read_text().replace("page:\n", "page:\n  num_road: 10\n"))  # of an earlier version

    numbers = {"mosaics": 2, "removed": 0, "randomized": 0, "replaced": 0}
    parts = [f"--evidence.num_{name}={number}" for name, number in numbers.items()]
    quick = ["--trainer.limit_train_batches=1", "--page.num_neighbors=0", "--scores.duplicates=false"]
    evaluate.main([str(run), *NO_CAMS, "--report=full", *parts, *quick])
    classifier = cifar_lit.load(run, "cpu")
    temperature, held_out = classifier.require_temperature(), data.val_dataset.indices
    with torch.no_grad():
        logits, others = net(images[held_out]).double(), net(torch.from_numpy(data.splits.test.images[:3]))
    values = [1.0, 0.95 * temperature, temperature, 1.05 * temperature]
    losses = [torch.nn.functional.cross_entropy(logits / value, labels[held_out]).item() for value in values]
    assert np.argmin(losses) == 2 and temperature > 1.5
    assert json.loads((run / "evaluation_1" / "metrics.json").read_text())["temperature"]["value"] == temperature

    for i, image in enumerate(data.splits.test.images[:3]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    out = tmp_path / "rows.jsonl"
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    predict.main([str(run), *files, "--calibrated", "--device=cpu", "--out", str(out)])
    rows = map(json.loads, out.read_text().splitlines())
    found = [[row[f"p({name})"] for name in classifier.classes] for row in rows]
    np.testing.assert_allclose(found, (others / temperature).softmax(1).numpy(), atol=1e-4)
    explain.main([str(run), files[0], "--calibrated", "--top=1", "--out", str(tmp_path / "explained")])
    (explained,) = json.loads((tmp_path / "explained" / "explain.json").read_text())["images"]
    assert explained["calibrated"] and explained["top"][0]["probability"] == pytest.approx(max(found[0]), abs=1e-4)

    assert classifier.layer_choice[1] == f"best localization in {run / 'evaluation_1' / 'evidence.json'}"
    assert classifier.layer_choice[0] == RunResults.load(run / "evaluation_1").default_layer


def checkpoint_net(run: Path) -> torch.nn.Module:
    """Return the network of a run's best checkpoint."""
    data = ImageDataModule("digits")
    net = ResNet18(10, data.mean, data.std, stem="imagenet").eval()
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    net.load_state_dict(net_state(checkpoint["state_dict"]))
    return net


def test_unusable_checkpoint_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "checkpoints/best.ckpt" in refused(capsys, evaluate.main, str(tmp_path))
    assert "none.ckpt" in refused(capsys, evaluate.main, str(tmp_path / "none.ckpt"))
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["ImageDataModule"]["classes"][3] = "three"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    message = refused(capsys, evaluate.main, str(tmp_path / "other.ckpt"), "--data.source=digits")
    assert "'three'" in message and "'3'" in message
    assert not list(tmp_path.glob("evaluation_*"))


def test_help_has_only_options_with_an_effect(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        evaluate.main(["--help"])
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if " tests." not in line]  # classes of other tests are known, too
    assert len(lines) < 150
    assert "--data.root" in text and "--page.num_cams" in text
    assert "CONFIG" not in text and "-->" not in text
    assert "--model" not in text and "--data.batch_size" not in text and "--trainer.max_epochs" not in text
