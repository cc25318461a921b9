"""`python -m cifar_lit.fit`, from the command line to the report, on the built-in digits."""

import csv
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn import metrics as sklearn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cifar_lit import evaluate
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import Split
from cifar_lit.data.sampling import stratified_split
from cifar_lit.fit import main
from cifar_lit.models.classifier import ImageClassifier
from tests.cli.refused import files
from tests.conftest import BRIEF, QUICK, copy_run

FIGURES = {"train_images", "test_images", "misclassified", "gradcam_true", "gradcam_predicted", "gradcam_layer1"}
FIGURES |= {"curves", "class_accuracy", "confusion", "calibration", "risk_coverage", "slices"}


@pytest.fixture
def run(finished_run: Path) -> Path:
    return finished_run


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def losses(run: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Recompute log-probabilities and losses from the best checkpoint, with plain torch."""
    module = ImageClassifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True).eval()
    with torch.no_grad():
        table = module(torch.tensor(split.images)).double().log_softmax(1)
    return table.numpy(), -table[torch.arange(len(split)), torch.tensor(split.labels)].numpy()


def test_run_is_complete(run: Path) -> None:
    assert {file.stem for file in (run / "report").glob("*.png")} == FIGURES
    assert {file.name for file in (run / "report").iterdir() if file.suffix != ".png"} == {
        "misclassified.csv",
        "metrics.json",
        "history.csv",
        "class_accuracy.csv",
        "confusion.csv",
        "predictions.csv",
        "predictions_train.csv",
        "predictions_val.csv",
        "risk_coverage.csv",
        "slices.csv",
        "index.html",
        "README.md",
    }
    # No temperature.json: the network is no better than chance.
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for file in (run / "checkpoints").glob("*.ckpt"):
        assert torch.load(file, weights_only=True)["hyper_parameters"]["num_classes"] == 10
    for name in ("config.yaml", "provenance.json", "log.txt"):
        assert (run / name).stat().st_size > 0
    for file in (run / "report").glob("*.png"):
        with Image.open(file) as image:
            assert min(image.size) > 100


def test_report_is_of_the_best_checkpoint(run: Path) -> None:
    images = ImageDataModule("digits").splits
    table, loss = losses(run, images.test)
    predicted = table.argmax(axis=1)
    misclassified = np.flatnonzero(predicted != images.test.labels)
    expected = misclassified[np.argsort(-loss[misclassified])]
    errors = rows(run / "report" / "misclassified.csv")
    assert [int(row["index"]) for row in errors] == expected.tolist()
    for row, index in zip(errors, expected, strict=True):
        assert (row["true"], row["predicted"]) == (str(images.test.labels[index]), str(predicted[index]))
        assert float(row["probability_true"]) == pytest.approx(np.exp(-loss[index]), rel=1e-3)
        assert float(row["probability_predicted"]) == pytest.approx(np.exp(table[index].max()), rel=1e-3)
        assert float(row["loss"]) == pytest.approx(loss[index], rel=1e-3)
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert metrics["weights"] == "best weights, epoch 1"
    assert metrics["test"]["accuracy"] == pytest.approx(1 - len(misclassified) / 360)
    assert metrics["test"]["loss"] == pytest.approx(loss.mean(), rel=1e-4)
    by_class = {row["class"]: float(row["accuracy"]) for row in rows(run / "report" / "class_accuracy.csv")}
    for label in range(10):
        of_class = images.test.labels == label
        assert by_class[str(label)] == pytest.approx((predicted == images.test.labels)[of_class].mean())


def test_metrics_follow_from_predictions_csv(run: Path) -> None:
    errors = rows(run / "report" / "predictions.csv")
    names = [column[2:-1] for column in errors[0] if column.startswith("p(")]
    true, predicted = ([row[key] for row in errors] for key in ("true", "predicted"))
    probabilities = np.array([[float(row[f"p({name})"]) for name in names] for row in errors])
    assert [names[i] for i in probabilities.argmax(axis=1)] == predicted
    metrics = json.loads((run / "report" / "metrics.json").read_text())["test"]
    assert metrics["accuracy"] == pytest.approx(sklearn.accuracy_score(true, predicted))
    assert metrics["loss"] == pytest.approx(sklearn.log_loss(true, probabilities, labels=names), rel=1e-6)
    low, high = metrics["accuracy_interval_95"]
    assert low < metrics["accuracy"] < high
    precision, recall, f1, count = sklearn.precision_recall_fscore_support(true, predicted, zero_division=np.nan)
    table = rows(run / "report" / "class_accuracy.csv")
    assert [row["class"] for row in table] == names
    for key, expected in (("precision", precision), ("accuracy", recall), ("f1", f1), ("test_images", count)):
        np.testing.assert_allclose([float(row[key]) for row in table], expected)
    confusion = [[int(row[name]) for name in names] for row in rows(run / "report" / "confusion.csv")]
    np.testing.assert_array_equal(confusion, sklearn.confusion_matrix(true, predicted))
    confidence, correct = probabilities.max(axis=1), np.array(true) == np.array(predicted)
    bins = [(confidence > i / 15) & (confidence <= (i + 1) / 15) for i in range(15)]
    gaps = [b.mean() * abs(confidence[b].mean() - correct[b].mean()) for b in bins if b.any()]
    assert metrics["calibration_error"] == pytest.approx(sum(gaps), abs=1e-6)


def test_failed_part_of_the_report_does_not_stop_the_others(
    fit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no room for the matrix")

    monkeypatch.setattr("cifar_lit.report.figures.confusion", broken)
    with pytest.raises(SystemExit) as exit_:
        fit(*BRIEF)
    assert exit_.value.code == 1
    report = tmp_path / "lightning_logs" / "demo" / "version_0" / "report"
    assert (report / "misclassified.png").exists() and (report / "curves.png").exists()
    message = capsys.readouterr().err
    assert "Scores could not be created: no room for the matrix" in message
    assert "evaluate lightning_logs/demo/version_0" in message
    assert "MemoryError" in (report / "failures.txt").read_text()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    evaluate.main(["lightning_logs/demo/version_0"])
    again = report.parent / "evaluation_1"
    assert (again / "confusion.png").exists() and not (again / "failures.txt").exists()


def test_final_train_metrics_exclude_augmentation_and_validation_images(run: Path) -> None:
    data = ImageDataModule("digits", val_size=200, seed=0)
    labels = data.splits.train.labels[data.train_dataset.indices]
    chosen = data.train_dataset.indices[stratified_split(labels, 3 * 32, seed=0)[1]]  # limit_train_batches=3
    split = Split(data.splits.train.images[chosen], data.splits.train.labels[chosen])
    _, loss = losses(run, split)
    train = json.loads((run / "report" / "metrics.json").read_text())["train"]
    assert train["images"] == 96
    assert train["loss"] == pytest.approx(loss.mean(), rel=1e-4)


def test_tensorboard_has_curves_and_images(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == {f"report/{name}" for name in FIGURES}
    scalars = {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "test/loss", "test/accuracy"}
    assert scalars <= set(events.Tags()["scalars"])
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert events.Scalars("test/accuracy")[-1].value == pytest.approx(metrics["test"]["accuracy"])
    with Image.open(run / "report" / "misclassified.png") as image:
        logged = events.Images("report/misclassified")[-1]
        assert (logged.width, logged.height) == image.size


def test_tensorboard_has_hyperparameters_with_final_metrics(run: Path) -> None:
    events = EventAccumulator(str(run))
    events.Reload()
    plugin = events.summary_metadata
    start = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"].plugin_data.content)
    options = start.session_start_info.hparams
    assert options["model.stem"].string_value == "imagenet" and options["data.batch_size"].number_value == 32
    assert options["model.optimizer.init_args.weight_decay"].number_value == 5e-4
    experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"].plugin_data.content).experiment
    names = [info.name.tag for info in experiment.metric_infos]
    assert names[0] == "test/accuracy" and set(names) <= set(events.Tags()["scalars"])
    first = {info.name for info in experiment.hparam_infos if info.differs}  # the others follow, sorted by name
    assert first == {"model.optimizer.init_args.lr", "data.batch_size", "trainer.max_epochs"}


def test_tensorboard_projector_has_all_test_images(run: Path) -> None:
    (folder,) = run.glob("*/test_features")
    header, *labels = (folder / "metadata.tsv").read_text().splitlines()
    errors = rows(run / "report" / "predictions.csv")
    assert header.split("\t") == ["true", "predicted", "correct", "index"]
    assert [line.split("\t")[::3] for line in labels] == [[row["true"], row["index"]] for row in errors]
    vectors = np.loadtxt(folder / "tensors.tsv")
    assert vectors.shape == (len(errors), 50)
    with Image.open(folder / "sprite.png") as sprite:
        columns = int(np.ceil(len(errors) ** 0.5))
        assert sprite.size == (32 * columns, 32 * columns)
    assert "test_features" in (run / "projector_config.pbtxt").read_text()


def test_config_repeats_the_run_in_a_new_folder(
    run: Path, fit: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = copy_run(run, tmp_path)
    before = files(first)
    with caplog.at_level("INFO"):
        second = fit("--config", str(first / "config.yaml"))
    assert second == tmp_path / "lightning_logs" / "demo" / "version_1" and files(first) == before
    for name in ("misclassified.csv", "metrics.json"):
        assert (second / "report" / name).read_text() == (first / "report" / name).read_text()
    messages = [record.getMessage() for record in caplog.records]
    start = next(number for number, message in enumerate(messages) if message.startswith("training: "))
    assert sum(len(message.splitlines()) for message in messages[: start + 1]) <= 12
    assert not any(word in message for message in messages for word in ("weights_only", "FLOPs", "site-packages"))
    last = messages[-1]
    assert "test accuracy" in last and "train accuracy" in last and "lightning_logs/demo/version_1/report" in last
    assert last.endswith("tensorboard --logdir lightning_logs/demo")  # which listens on localhost


def test_config_and_provenance_are_complete(run: Path) -> None:
    assert len(yaml.safe_load((run / "hparams.yaml").read_text())["mean"]) == 3  # plain YAML, without Python's types
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["source"] == "digits" and config["trainer"]["limit_train_batches"] == 3
    assert config["model"]["optimizer"]["init_args"]["weight_decay"] == 5e-4
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["torch"] == torch.__version__.split("+")[0]
    assert {"command", "commit", "python", "cpu", "pytorch-lightning", "albumentations", "precision"} <= set(provenance)


def test_val_size_0_reports_the_last_weights_also_in_a_thread(fit: Callable[..., Path]) -> None:
    with ThreadPoolExecutor() as threads:  # as in a notebook or server, where Python handles no signals
        run = threads.submit(fit, *BRIEF, "--data.val_size=0").result()
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert json.loads((run / "report" / "metrics.json").read_text())["weights"] == "last weights, epoch 1"
    assert not any(row["val_loss"] for row in rows(run / "report" / "history.csv"))


def test_command_line_overrides_the_recipe_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--data.batch_size=16", *QUICK, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["data"]["batch_size"], printed["data"]["source"]) == (16, "digits")


@pytest.mark.slow
@pytest.mark.parametrize(("val_size", "weights"), [(200, "best"), (0, "last")])
def test_report_ignores_model_checkpoints_of_the_user(val_size: int, weights: str, fit: Callable[..., Path]) -> None:
    callback = "--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint"
    first = [callback, "--trainer.callbacks.monitor=epoch", "--trainer.callbacks.mode=min"]
    run = fit(
        *BRIEF, "--trainer.max_epochs=2", "--trainer.limit_train_batches=8", *first, f"--data.val_size={val_size}"
    )
    if val_size:
        accuracies = [float(row["val_accuracy"]) for row in rows(run / "report" / "history.csv")]
        assert accuracies[1] > accuracies[0]
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert (metrics["weights"], metrics["checkpoint"]) == (
        f"{weights} weights, epoch 2",
        f"../checkpoints/{weights}.ckpt",
    )


@pytest.mark.slow
def test_learning_rate_finder(fit: Callable[..., Path]) -> None:
    run = fit(*BRIEF, "--lr_find=100", "--model.schedule.name=constant")
    tested = [float(row["lr"]) for row in rows(run / "report" / "lr_find.csv")]
    assert tested == sorted(tested) and len(tested) > 60
    assert (run / "report" / "lr_find.png").exists()
    (epoch,) = rows(run / "report" / "history.csv")
    assert float(epoch["lr"]) in [pytest.approx(lr, rel=1e-4) for lr in tested]
    assert 2e-3 < float(epoch["lr"]) < 3e-2  # for these images and this network; at 0.05 the loss explodes
    fit(*BRIEF, "--lr_find=100", "--model.schedule.name=constant", "--trainer.max_epochs=2", "--ckpt_path=last")
    assert [row["lr"] for row in rows(run / "report" / "history.csv")] == [epoch["lr"]] * 2


def test_errors_in_an_image_folder_are_named(fit: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 12)):
        for name in ("bee", "wasp"):  # noise, so that there are errors
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for i in range(count):
                noise = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
                noise.save(tmp_path / "mine" / split / name / f"{i}.png")
    options = ["--data.source=folder", "--data.root=mine", "--data.image_size=48", "--data.val_size=4"]
    report = fit(*QUICK, *options, "--data.batch_size=16") / "report"
    errors = rows(report / "misclassified.csv")
    assert errors and all(row["file"].split("/")[0] == row["true"] for row in errors)
    assert {row["file"] for row in rows(report / "predictions.csv")} >= {"bee/0.png", "wasp/11.png"}
    assert (report / "misclassified.png").exists() and (report / "gradcam_layer2.png").exists()
    assert f'"file": "{errors[0]["file"]}"' in (report / "index.html").read_text()


def test_fast_dev_run_tries_the_report_and_keeps_nothing(
    fit: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main_args = [*QUICK, "--trainer.fast_dev_run=true", "--lr_find=9"]
    with pytest.raises(IndexError):  # no run to return
        fit(*main_args)
    assert "tried 1 training step, validation, the final evaluation and the report (Misc" in caplog.text
    monkeypatch.setattr("cifar_lit.report.tables.confusion", lambda results: 1 / 0)
    with pytest.raises(SystemExit, match="1"):
        fit(*main_args)
    message = capsys.readouterr().err
    assert "Scores could not be created: division by zero" in message and "failures.txt" not in message
    assert not list(tmp_path.iterdir())


def test_run_that_nobody_watches_has_a_report_even_without_loggers(
    fit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as after `fit | head -2`
    monkeypatch.setattr(sys, "stdout", open(writing, "w"))
    monkeypatch.setattr(sys, "stderr", open(os.dup(writing), "w"))
    small = ["--trainer.logger=false", "--trainer.limit_test_batches=0.001", "--trainer.callbacks+=TQDMProgressBar"]
    with sys.stdout, sys.stderr:
        run = fit(*BRIEF, *small)
    assert json.loads((run / "report" / "metrics.json").read_text())["test"]["images"] == 1
    assert (run / "checkpoints" / "best.ckpt").exists() and "epoch 1/1" in (run / "log.txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"lightning_logs"}
    assert not list(run.glob("events*"))


@pytest.mark.parametrize("added", [pytest.param("", marks=pytest.mark.slow), "+"])
def test_other_logger_does_not_move_the_run(added: str, fit: Callable[..., Path], tmp_path: Path) -> None:
    csv_logger = ["CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'mine'}"]
    run = fit(*BRIEF, "--trainer.limit_test_batches=0.001", f"--trainer.logger{added}", *csv_logger)
    assert run.name == "version_0" and len(list((tmp_path / "mine").rglob("metrics.csv"))) == 1
    assert (run / "report" / "index.html").exists() and (run / "checkpoints" / "best.ckpt").exists()
    assert bool(list(run.glob("events*"))) == (added == "+")
