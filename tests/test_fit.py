"""The whole way through `main`, as `python -m cifar_lit.fit` goes it, on the built-in digits."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
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
from cifar_lit.training.lr_finder import where_lowest
from tests.conftest import QUICK

PICTURES = {"train_images", "test_images", "misclassified", "gradcam_true", "gradcam_predicted", "gradcam_layer1"}
PICTURES |= {"curves", "class_accuracy", "confusion", "calibration"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        main([*QUICK, "--misclassified.k=7"])
        return Path("lightning_logs/demo/version_0").resolve()


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def losses(run: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Recompute log-probabilities and losses from the best checkpoint, with plain torch."""
    module = ImageClassifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True).eval()
    with torch.no_grad():
        table = module(torch.tensor(split.images)).double().log_softmax(1)
    return table.numpy(), -table[torch.arange(len(split)), torch.tensor(split.labels)].numpy()


def test_everything_is_there(run: Path) -> None:
    assert {file.stem for file in (run / "report").glob("*.png")} == PICTURES
    assert {file.name for file in (run / "report").iterdir() if file.suffix != ".png"} == {
        "misclassified.csv",
        "metrics.json",
        "history.csv",
        "class_accuracy.csv",
        "confusion.csv",
        "predictions.csv",
        "index.html",
        "README.md",
    }
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for name in ("config.yaml", "provenance.json", "metrics.csv", "log.txt"):
        assert (run / name).stat().st_size > 0
    for file in (run / "report").glob("*.png"):
        with Image.open(file) as image:
            assert min(image.size) > 100


def test_misclassified_and_figures_are_those_of_the_best_checkpoint(run: Path) -> None:
    images = ImageDataModule("digits").splits
    table, loss = losses(run, images.test)
    predicted = table.argmax(axis=1)
    wrong = np.flatnonzero(predicted != images.test.labels)
    expected = wrong[np.argsort(-loss[wrong])]
    errors = rows(run / "report" / "misclassified.csv")
    assert [int(row["index"]) for row in errors] == expected.tolist()
    for row, index in zip(errors, expected, strict=True):
        assert (row["true"], row["predicted"]) == (str(images.test.labels[index]), str(predicted[index]))
        assert float(row["probability_true"]) == pytest.approx(np.exp(-loss[index]), rel=1e-3)
        assert float(row["probability_predicted"]) == pytest.approx(np.exp(table[index].max()), rel=1e-3)
        assert float(row["loss"]) == pytest.approx(loss[index], rel=1e-3)
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert metrics["weights"] == "best weights, epoch 1"
    assert metrics["test"]["accuracy"] == pytest.approx(1 - len(wrong) / 360)
    assert metrics["test"]["loss"] == pytest.approx(loss.mean(), rel=1e-4)
    by_class = {row["class"]: float(row["accuracy"]) for row in rows(run / "report" / "class_accuracy.csv")}
    for label in range(10):
        of_class = images.test.labels == label
        assert by_class[str(label)] == pytest.approx((predicted == images.test.labels)[of_class].mean())


def test_every_figure_follows_from_predictions_csv(run: Path) -> None:
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
    confidence, right = probabilities.max(axis=1), np.array(true) == np.array(predicted)
    bins = [(confidence > i / 15) & (confidence <= (i + 1) / 15) for i in range(15)]
    gaps = [b.mean() * abs(confidence[b].mean() - right[b].mean()) for b in bins if b.any()]
    assert metrics["calibration_error"] == pytest.approx(sum(gaps), abs=1e-6)


def test_a_part_that_cannot_be_drawn_does_not_stop_the_others(
    fit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no room for the matrix")

    monkeypatch.setattr("cifar_lit.report.figures.confusion", broken)
    with pytest.raises(SystemExit) as exit_:
        fit(*QUICK)
    assert exit_.value.code == 1
    report = tmp_path / "lightning_logs" / "demo" / "version_0" / "report"
    assert (report / "misclassified.png").exists() and (report / "curves.png").exists()
    message = capsys.readouterr().err
    assert "Scores could not be made: no room for the matrix" in message
    assert "evaluate --ckpt_path lightning_logs/demo/version_0 makes its report again" in message
    assert "MemoryError" in (report / "problems.txt").read_text()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    evaluate.main(["--ckpt_path", "lightning_logs/demo/version_0"])
    again = report.parent / "evaluation_1"
    assert (again / "confusion.png").exists() and not (again / "problems.txt").exists()


def test_final_train_figures_are_without_augmentation_and_held_out_images(run: Path) -> None:
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
    assert set(events.Tags()["images"]) == {f"report/{name}" for name in PICTURES}
    scalars = {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "test/loss", "test/accuracy"}
    assert scalars <= set(events.Tags()["scalars"])
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert events.Scalars("test/accuracy")[-1].value == pytest.approx(metrics["test"]["accuracy"])
    with Image.open(run / "report" / "misclassified.png") as image:
        logged = events.Images("report/misclassified")[-1]
        assert (logged.width, logged.height) == image.size


def test_hyperparameters_stand_with_the_final_figures(run: Path) -> None:
    events = EventAccumulator(str(run))
    events.Reload()
    plugin = events.summary_metadata
    start = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"].plugin_data.content)
    options = start.session_start_info.hparams
    assert options["model.stem"].string_value == "imagenet" and options["data.batch_size"].number_value == 32
    assert options["model.optimizer.init_args.weight_decay"].number_value == 5e-4
    told = HParamsPluginData.FromString(plugin["_hparams_/experiment"].plugin_data.content)
    names = [info.name.tag for info in told.experiment.metric_infos]
    assert "test/accuracy" in names and set(names) <= set(events.Tags()["scalars"])


def test_the_projector_has_all_test_images(run: Path) -> None:
    (folder,) = run.glob("*/test_features")
    header, *labels = (folder / "metadata.tsv").read_text().splitlines()
    errors = rows(run / "report" / "predictions.csv")
    assert header.split("\t") == ["true", "predicted", "right", "index"]
    assert [line.split("\t")[::3] for line in labels] == [[row["true"], row["index"]] for row in errors]
    vectors = np.loadtxt(folder / "tensors.tsv")
    assert vectors.shape == (len(errors), 50)
    with Image.open(folder / "sprite.png") as sprite:
        columns = int(np.ceil(len(errors) ** 0.5))
        assert sprite.size == (32 * columns, 32 * columns)
    assert "test_features" in (run / "projector_config.pbtxt").read_text()


def test_config_alone_repeats_the_run(run: Path, fit: Callable[..., Path]) -> None:
    again = fit("--config", str(run / "config.yaml"))
    assert again.parent.name == "demo"
    for name in ("misclassified.csv", "metrics.json"):
        assert (again / "report" / name).read_text() == (run / "report" / name).read_text()


def test_the_config_is_complete_and_the_versions_are_noted(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["source"] == "digits" and config["trainer"]["limit_train_batches"] == 3
    assert config["model"]["optimizer"]["init_args"]["weight_decay"] == 5e-4
    notes = json.loads((run / "provenance.json").read_text())
    assert notes["torch"] == torch.__version__.split("+")[0]
    assert {"command", "commit", "python", "cpu", "pytorch-lightning", "albumentations", "precision"} <= set(notes)


def test_checkpoints_hold_plain_data_only(run: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(run / "checkpoints" / name, weights_only=True)
        assert checkpoint["hyper_parameters"]["num_classes"] == 10


def test_the_screen_ends_with_where_to_look(fit: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(*QUICK)
    last = caplog.records[-1].getMessage()
    assert "test accuracy" in last and "train accuracy" in last
    assert last.splitlines()[-1].startswith("TensorBoard ")
    assert last.splitlines()[-1].endswith("tensorboard --logdir lightning_logs")
    assert "lightning_logs/demo/version_0/report" in last


def test_a_second_run_leaves_the_first_alone(fit: Callable[..., Path]) -> None:
    first = fit(*QUICK)
    before = {file: file.stat().st_mtime_ns for file in first.rglob("*")}
    second = fit(*QUICK)
    assert (first.name, second.name) == ("version_0", "version_1")
    assert {file: file.stat().st_mtime_ns for file in first.rglob("*")} == before
    assert (first / "report" / "metrics.json").read_text() == (second / "report" / "metrics.json").read_text()


def test_val_size_0_keeps_and_reports_the_last_weights(fit: Callable[..., Path]) -> None:
    run = fit(*QUICK, "--data.val_size=0")
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert json.loads((run / "report" / "metrics.json").read_text())["weights"] == "last weights, epoch 1"
    assert not any("val" in row for row in rows(run / "report" / "history.csv"))


@pytest.mark.parametrize(
    ("part", "all_of_it"),
    [
        (["--trainer.max_epochs=1"], ["--trainer.max_epochs=2"]),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=3"], ["--trainer.max_epochs=-1", "--trainer.max_steps=6"]),
    ],
)
def test_resuming_continues_in_the_same_folder_and_ends_with_the_same_weights(
    part: list[str], all_of_it: list[str], fit: Callable[..., Path]
) -> None:
    options = [*QUICK, "--model.schedule.name=constant"]
    whole = fit(*options, *all_of_it)
    fit(*options, *part)
    resumed = fit(*options, *all_of_it, "--ckpt_path=last")
    assert resumed.name == "version_1"
    assert "ckpt_path: null" in (resumed / "config.yaml").read_text()  # as the run was begun
    assert "ckpt_path: last" in (resumed / "config_2.yaml").read_text() and (resumed / "provenance_2.json").exists()
    assert "resumed, part 2, command" in (resumed / "report" / "index.html").read_text(encoding="utf-8")
    ours, theirs = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (resumed, whole))
    assert all(torch.equal(value, theirs["state_dict"][key]) for key, value in ours["state_dict"].items())
    for name in ("report/misclassified.csv", "report/metrics.json"):
        assert (resumed / name).read_text() == (whole / name).read_text()
    assert [row["epoch"] for row in rows(resumed / "report" / "history.csv")] == ["0", "1"]
    assert len((resumed / "log.txt").read_text().splitlines()) == 2
    for key in ("train/loss", "val/accuracy"):
        curves = [[row[key] for row in rows(r / "metrics.csv") if row[key]] for r in (resumed, whole)]
        assert curves[0] == curves[1] and len(curves[0]) == 2


@pytest.mark.parametrize("val_size", [100, 0])
def test_a_finished_training_makes_the_same_report_again(val_size: int, fit: Callable[..., Path]) -> None:
    averaged = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"
    options = [*QUICK, f"--data.val_size={val_size}", averaged]
    run = fit(*options)
    made = {name: (run / "report" / name).read_text() for name in ("predictions.csv", "metrics.json")}
    assert fit(*options, "--ckpt_path=last") == run
    assert made == {name: (run / "report" / name).read_text() for name in made}


def test_best_of_an_earlier_run_can_be_gone_on_from(fit: Callable[..., Path]) -> None:
    options = [*QUICK, "--model.schedule.name=constant"]
    first = fit(*options)
    second = fit(*options, "--trainer.max_epochs=2", "--ckpt_path=best")
    assert (first.name, second.name) == ("version_0", "version_1")
    assert [row["epoch"] for row in rows(second / "report" / "history.csv")] == ["0", "1"]


def test_a_checkpoint_from_between_a_validation_and_the_epochs_end_is_gone_on_from(fit: Callable[..., Path]) -> None:
    options = [*QUICK, "--model.schedule.name=constant", "--trainer.check_val_every_n_epoch=2"]
    first = fit(*options, "--trainer.max_epochs=2")
    second = fit(*options, "--trainer.max_epochs=3", "--ckpt_path=best")
    earlier, later = (rows(run / "report" / "history.csv") for run in (first, second))
    assert len(later) == 3
    for name in ("lr", "train/loss", "val/accuracy"):
        before = [float(row[name] or "nan") for row in earlier]
        assert [float(row[name] or "nan") for row in later[:2]] == pytest.approx(before, nan_ok=True)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(args)
    assert [run.name for run in Path("lightning_logs/demo").iterdir()] == ["version_0"]
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_a_schedule_does_not_go_on_beyond_its_end(
    name: str, fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*QUICK, f"--model.schedule.name={name}"]
    run = fit(*options)
    for checkpoint in ("best", str(run)):
        message = refused(capsys, *options, "--trainer.max_epochs=2", "--ckpt_path", checkpoint)
        assert f"model.schedule.name={name} was planned for 3 steps, and this training has 6" in message


def test_a_run_does_not_go_on_with_other_data(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fit(*QUICK)
    before = sorted(tmp_path.iterdir())
    message = refused(capsys, *QUICK, "--ckpt_path=last", "--data.source=cifar10")
    assert "data.source=cifar10" in message and "data.source=digits" in message and sorted(tmp_path.iterdir()) == before
    assert "it was trained on other images" in refused(capsys, *QUICK, "--ckpt_path=last", "--data.image_size=24")


def test_a_run_stopped_before_its_first_checkpoint_begins_again_where_it_began(fit: Callable[..., Path]) -> None:
    fit(*QUICK, "--model.schedule.name=constant", "--seed_everything=5")
    options = [*QUICK, "--model.schedule.name=constant", "--trainer.max_epochs=2"]
    run = fit(*options, "--ckpt_path=best")
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "report")
    assert fit(*options, "--ckpt_path=last") == run
    again = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in again.items())


def test_options_count_wherever_the_recipe_stands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--data.batch_size=16", *QUICK, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["data"]["batch_size"], printed["data"]["source"]) == (16, "digits")


def test_the_report_is_of_the_projects_own_best_weights(fit: Callable[..., Path]) -> None:
    callback = "--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint"
    worst = [callback, "--trainer.callbacks.monitor=val/accuracy", "--trainer.callbacks.mode=min"]
    run = fit(*QUICK, "--trainer.max_epochs=3", "--trainer.limit_train_batches=8", *worst)
    accuracies = [float(row["val/accuracy"]) for row in rows(run / "report" / "history.csv")]
    assert max(accuracies) > min(accuracies)
    best = accuracies.index(max(accuracies)) + 1
    assert json.loads((run / "report" / "metrics.json").read_text())["weights"] == f"best weights, epoch {best}"


def test_two_processes_give_the_same_figures_and_errors(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "lightning_logs" / "demo" / "version_0")
    report = tmp_path / "lightning_logs" / "demo" / "version_0" / "report"
    shutil.rmtree(report)
    ddp = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    arguments = [*QUICK, "--misclassified.k=7", "--data.batch_size=16", *ddp, "--ckpt_path=last"]
    subprocess.run([sys.executable, "-m", "cifar_lit.fit", *arguments], cwd=tmp_path, check=True, timeout=300)
    for name in ("misclassified.csv", "metrics.json", "class_accuracy.csv", "predictions.csv"):
        assert (report / name).read_text() == (run / "report" / name).read_text()


def test_two_processes_train(tmp_path: Path) -> None:
    ddp = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=16"]
    args = [*QUICK, *ddp, "--data.val_size=513"]  # a batch and one image more in one of them
    subprocess.run([sys.executable, "-m", "cifar_lit.fit", *args], cwd=tmp_path, check=True, timeout=300)
    run = tmp_path / "lightning_logs" / "demo" / "version_0"
    assert [r.name for r in run.parent.iterdir()] == ["version_0"]
    assert {file.stem for file in (run / "report").glob("*.png")} == PICTURES
    assert json.loads((run / "report" / "metrics.json").read_text())["test"]["images"] == 360
    (epoch,) = rows(run / "report" / "history.csv")
    assert float(epoch["lr"]) == pytest.approx(0.002 / 25 / 1e4)  # OneCycle came to its end: the total was right


def test_two_processes_report_the_weights_that_are_kept(tmp_path: Path) -> None:
    ddp = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=16"]
    args = [*QUICK, *ddp, "--data.val_size=0", "--lr_find=25", "--process_timeout=60"]
    subprocess.run([sys.executable, "-m", "cifar_lit.fit", *args], cwd=tmp_path, check=True, timeout=300)
    run = tmp_path / "lightning_logs" / "demo" / "version_0"
    evaluate.main(["--ckpt_path", str(run)])
    for name in ("predictions.csv", "misclassified.csv"):
        assert (run / "evaluation_1" / name).read_text() == (run / "report" / name).read_text()


@pytest.mark.parametrize("seed", range(5))
def test_the_learning_rate_is_the_one_up_to_which_the_loss_falls(seed: int) -> None:
    rates = np.geomspace(1e-6, 1, 100)
    losses = 2.3 - 1.5 / (1 + (3e-3 / rates) ** 2) + np.random.default_rng(seed).normal(0, 0.1, 100)
    losses[75:] += 20 * np.sin(np.linspace(0, np.pi, 25))  # thrown out, and falling back at the highest rates
    for _ in range(2):
        lr = where_lowest(rates, losses.astype(np.float32))
        assert lr is not None and 8e-3 < lr < 5e-2
        losses[90:] = np.nan
    assert where_lowest(rates, np.linspace(2, 3, 100, dtype=np.float32)) is None


def test_learning_rate_finder(fit: Callable[..., Path]) -> None:
    run = fit(*QUICK, "--lr_find=25", "--model.schedule.name=constant")
    tested = [float(row["lr"]) for row in rows(run / "report" / "lr_find.csv")]
    assert tested == sorted(tested) and len(tested) > 15
    assert (run / "report" / "lr_find.png").exists()
    used = {row["lr"] for row in rows(run / "report" / "history.csv")}
    assert len(used) == 1 and float(next(iter(used))) in [pytest.approx(lr, rel=1e-4) for lr in tested]
    assert 2e-3 < float(next(iter(used))) < 3e-2  # of these images and this network; at 0.05 the loss explodes
    fit(*QUICK, "--lr_find=25", "--model.schedule.name=constant", "--trainer.max_epochs=2", "--ckpt_path=last")
    assert [row["lr"] for row in rows(run / "report" / "history.csv")] == [*used] * 2


def test_errors_in_a_folder_of_ones_own_are_named(fit: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 12)):
        for name in ("bee", "wasp"):  # not to be told apart
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


def test_callbacks_of_a_user_are_added_to_ours(fit: Callable[..., Path], tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        "trainer:\n  callbacks:\n    - class_path: pytorch_lightning.callbacks.EarlyStopping\n"
        "      init_args: {monitor: val/accuracy, mode: max, patience: 0, min_delta: 1.0}\n"
    )
    run = fit(*QUICK, "--config", str(extra), "--trainer.max_epochs=9", "--model.schedule.name=constant")
    assert len(rows(run / "report" / "history.csv")) == 2  # stopped after one epoch without improvement
    weights = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    fit(*QUICK, "--config", str(extra), "--trainer.max_epochs=9", "--model.schedule.name=constant", "--ckpt_path=last")
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == weights  # it was finished
    assert (run / "report" / "misclassified.png").exists()


def test_fast_dev_run_leaves_nothing(fit: Callable[..., Path], tmp_path: Path) -> None:
    main_args = [*QUICK, "--trainer.fast_dev_run=true", "--lr_find=5"]
    with pytest.raises(IndexError):  # no run to return
        fit(*main_args)
    assert not list(tmp_path.iterdir())


def test_a_run_without_loggers_reports_too(fit: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        fit(*QUICK, "--trainer.logger=false", "--trainer.limit_test_batches=0.001")
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["test"]["images"] == 1
