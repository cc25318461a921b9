"""The parts of the report, each a thin callback: what to look at, what to write."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit import figures
from cifar_lit.analysis import Analysis
from cifar_lit.errors import UsageError
from cifar_lit.gradcam import activation_maps, default_layer, to_picture
from cifar_lit.net import Layer
from cifar_lit.predictions import Predictions
from cifar_lit.report import Report, ReportCallback
from cifar_lit.screen import History


class SamplePictures(ReportCallback):
    """Draws training pictures as the network sees them (augmented) and test pictures.

    Args:
        k: How many of each, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = _at_least_one("samples.k", k)

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `train_pictures.png` and `test_pictures.png`, drawn at random but always the same ones."""
        data = analysis.data
        for name, dataset, how in (
            ("train", data.train_dataset, "as the network sees them (augmented)"),
            ("test", data.test_dataset, "(never augmented)"),
        ):
            chosen = np.random.default_rng(0).permutation(len(dataset))[: self.k]
            batch = dataset.__getitems__([(0, int(position)) for position in chosen])
            pictures = [figures.enlarge(image) for image in batch.images.numpy()]
            titles = [data.pictures.classes[label] for label in batch.labels]
            report.figure(f"{name}_pictures", figures.grid(pictures, titles, f"{name} pictures {how}"))


class MisclassifiedPictures(ReportCallback):
    """Lists all misclassified test pictures and draws the most wrong ones.

    Args:
        k: How many to draw, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = _at_least_one("misclassified.k", k)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the pass over the test set."""
        _ = analysis.test

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `misclassified.csv`, the highest loss first, and `misclassified.png`."""
        test, classes = analysis.test, analysis.data.pictures.classes
        header = ("index", "true", "predicted", "probability_true", "probability_predicted", "loss")
        report.table("misclassified", header, [_error_row(test, i, classes) for i in test.errors])
        drawn = test.errors[: self.k]
        images = analysis.data.pictures.test.images[test.indices[drawn]]
        heading = f"{len(drawn)} of {len(test.errors)} misclassified test pictures, the most wrong first\n"
        report.figure(
            "misclassified",
            figures.grid(
                [figures.enlarge(image) for image in images],
                [_error_title(test, i, classes) for i in drawn],
                f"{heading}true → predicted, probability of the prediction ({analysis.weights})",
            )
            if len(drawn)
            else figures.sentence(f"No test picture is misclassified ({analysis.weights})."),
        )


class GradCAMPictures(ReportCallback):
    """Explains the misclassified pictures, the same ones, by Grad-CAM.

    Args:
        k: How many, 1 or more.
        layers: Which layers get a picture of their own, `layer1` to `layer4`. Default: the deepest whose map is
            larger than 5 px.
    """

    def __init__(self, k: int = 10, layers: list[Layer] | None = None) -> None:
        self.k = _at_least_one("misclassified.k", k)
        self.layers = layers

    def compute(self, analysis: Analysis) -> None:
        """Ask for the pass over the test set."""
        _ = analysis.test

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `gradcam_true.png`, `gradcam_predicted.png` and `gradcam_LAYER.png` for each layer."""
        test, data = analysis.test, analysis.data
        drawn = test.errors[: self.k]
        default = default_layer(analysis.net, data.image_size)
        layers = list(dict.fromkeys(self.layers or [default]))
        names = ["gradcam_true", "gradcam_predicted", *(f"gradcam_{layer}" for layer in layers)]
        if not len(drawn):
            for name in names:
                report.figure(name, figures.sentence(f"No error to explain ({analysis.weights})."))
            return
        images = data.pictures.test.images[test.indices[drawn]]
        asked = np.stack([test.labels[drawn], test.predicted[drawn]], axis=1)  # (k, 2)
        raw = activation_maps(analysis.net, images, asked, list({default, *layers}))
        heat = {  # layer -> for each picture (true, predicted), each laid over it
            layer: [
                [figures.overlay(image, to_picture(one, data.image_size)) for one in pair]
                for image, pair in zip(images, pairs, strict=True)
            ]
            for layer, pairs in raw.items()
        }
        titles = [_error_title(test, i, data.pictures.classes) for i in drawn]
        for position, which in enumerate(("true", "predicted")):
            heading = (
                f"Grad-CAM of {default} for the {which} class: bright places speak for it, all dark: nothing does\n"
            )
            pictures = [pair[position] for pair in heat[default]]
            caption = f"{heading}true → predicted, probability of the prediction ({analysis.weights})"
            report.figure(f"gradcam_{which}", figures.grid(pictures, titles, caption))
        for layer in layers:
            strips = [
                figures.side_by_side([figures.enlarge(image), *pair])
                for image, pair in zip(images, heat[layer], strict=True)
            ]
            heading = f"Grad-CAM of {layer}: the picture, what speaks for the true class, what for the predicted one\n"
            caption = f"{heading}true → predicted, probability of the prediction ({analysis.weights})"
            titles = [_error_title(test, i, data.pictures.classes, most=24) for i in drawn]
            report.figure(f"gradcam_{layer}", figures.grid(strips, titles, caption, columns=2))


class Summary(ReportCallback):
    """Writes curves and final figures, and says on the screen what came out and where to look."""

    def compute(self, analysis: Analysis) -> None:
        """Ask for the passes over test and training set."""
        _ = analysis.test, analysis.train

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `metrics.json`, `curves.png`, `history.csv`, `class_accuracy.csv` and `class_accuracy.png`."""
        test, train, classes = analysis.test, analysis.train, analysis.data.pictures.classes
        trainer = analysis.trainer
        by_class = test.class_accuracy()
        final = {
            name: {
                "loss": one.loss,
                "accuracy": one.accuracy,
                "pictures": len(one),
                "errors": len(one.errors),
            }
            for name, one in (("test", test), ("train", train))
        }
        report.json("metrics", {"weights": analysis.weights, **final})
        report.scalars(
            {
                "test/loss": test.loss,
                "test/accuracy": test.accuracy,
                "final_train/loss": train.loss,
                "final_train/accuracy": train.accuracy,
            }
        )
        counts = np.bincount(test.labels, minlength=len(classes))
        rows = zip(classes, counts, by_class, strict=True)
        report.table("class_accuracy", ("class", "test_pictures", "accuracy"), rows)
        report.figure("class_accuracy", figures.class_bars(classes, by_class, test.accuracy))
        history = next((c.rows for c in getattr(trainer, "callbacks", []) if isinstance(c, History)), [])
        if history:
            keys = list(dict.fromkeys(key for row in history for key in row))
            report.table("history", keys, [[row.get(key, "") for key in keys] for row in history])
            report.figure("curves", figures.curves(history))
        worst = int(np.nanargmin(by_class))
        command = "tensorboard" if shutil.which("tensorboard") else Path(sys.executable).with_name("tensorboard")
        rank_zero_info(
            f"\ntest accuracy  {test.accuracy:.2%}   loss {test.loss:.3f}   ({analysis.weights}; "
            f"{len(test.errors)} of {len(test)} pictures wrong)\n"
            f"train accuracy {train.accuracy:.2%}   loss {train.loss:.3f}   ({len(train)} pictures, not augmented)\n"
            f"weakest class  {classes[worst]}, {by_class[worst]:.2%}\n"
            f"report         {report.folder}\n"
            f"TensorBoard    {command} --logdir {report.folder.parent.parent.parent}"
        )


def _error_row(predictions: Predictions, row: int, classes: tuple[str, ...]) -> tuple[Any, ...]:
    true, predicted = predictions.labels[row], predictions.predicted[row]
    probabilities = predictions.probabilities[row]
    return (
        predictions.indices[row],
        classes[true],
        classes[predicted],
        f"{probabilities[true]:.6g}",
        f"{probabilities[predicted]:.6g}",
        f"{predictions.losses[row]:.6g}",
    )


def _error_title(predictions: Predictions, row: int, classes: tuple[str, ...], most: int = 12) -> str:
    predicted = predictions.predicted[row]
    true = classes[predictions.labels[row]]
    return f"{_short(true, most)} → {_short(classes[predicted], most)}\n{predictions.probabilities[row, predicted]:.0%}"


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise UsageError(f"{option} must be 1 or more, got {value}")
    return value
