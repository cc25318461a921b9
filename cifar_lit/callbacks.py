"""The parts of the report, each a thin callback: what to look at, what to write."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit import cams, figures, metrics, page
from cifar_lit.analysis import Analysis
from cifar_lit.errors import UsageError
from cifar_lit.files import replace_text
from cifar_lit.gradcam import activation_maps, default_layer, to_picture
from cifar_lit.net import Layer
from cifar_lit.predictions import Predictions, write_csv
from cifar_lit.report import Report, ReportCallback

THUMBNAIL = 40  # pixels; more would not fit into the one texture that the Projector makes of 10,000


class SamplePictures(ReportCallback):
    """Draws training pictures as the network sees them in its first epoch and test pictures.

    Args:
        k: How many of each, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = _at_least("samples.k", k, 1)

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `train_pictures.png` and `test_pictures.png`, drawn at random but always the same ones."""
        data = analysis.data
        for name, dataset, fetch, how in (
            ("train", data.train_dataset, data.samples, "as the network sees them in its first epoch"),
            ("test", data.test_dataset, data.test_dataset.fetch, "(never augmented)"),
        ):
            chosen = np.random.default_rng(0).permutation(len(dataset))[: self.k]
            batch = fetch(chosen)
            pictures = [figures.enlarge(image) for image in batch.images.numpy()]
            titles = [data.pictures.classes[label] for label in batch.labels]
            report.figure(f"{name}_pictures", figures.grid(pictures, titles, f"{name} pictures {how}"))


class MisclassifiedPictures(ReportCallback):
    """Lists all misclassified test pictures and draws the most wrong ones.

    Args:
        k: How many to draw, 1 or more.
    """

    def __init__(self, k: int = 10) -> None:
        self.k = _at_least("misclassified.k", k, 1)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the pass over the test set."""
        _ = analysis.test

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `misclassified.csv`, the highest loss first, and `misclassified.png`."""
        test, classes = analysis.test, analysis.data.pictures.classes
        header = ["index", "true", "predicted", "probability_true", "probability_predicted", "loss"]
        rows = [_error_row(test, i, classes) for i in test.errors]
        if files := analysis.data.pictures.test.files:
            header.append("file")
            rows = [(*row, files[row[0]]) for row in rows]
        report.table("misclassified", header, rows)
        drawn = test.errors[: self.k]
        images = analysis.data.pictures.test.images[test.indices[drawn]]
        heading = f"{len(drawn)} of {len(test.errors)} misclassified test pictures, the highest loss first\n"
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
        method: `GradCAM`, or another method of the grad-cam package: HiResCAM, GradCAM++, LayerCAM, XGradCAM,
            EigenCAM, FinerCAM, ScoreCAM, ...
    """

    def __init__(self, k: int = 10, layers: list[Layer] | None = None, method: str = "GradCAM") -> None:
        self.k = _at_least("misclassified.k", k, 1)
        self.layers = layers
        self.method = cams.check("gradcam.method", method)

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
        raw = activation_maps(analysis.net, images, asked, list({default, *layers}), self.method)
        heat = {  # layer -> for each picture (true, predicted), each laid over it
            layer: [
                [figures.overlay(image, to_picture(one, data.image_size)) for one in pair]
                for image, pair in zip(images, pairs, strict=True)
            ]
            for layer, pairs in raw.items()
        }
        method = figures.method_name(self.method)
        titles = [_error_title(test, i, data.pictures.classes) for i in drawn]
        for position, which in enumerate(("true", "predicted")):
            heading = (
                f"{method} of {default} for the {which} class: bright places speak for it, all dark: nothing does\n"
            )
            pictures = [pair[position] for pair in heat[default]]
            caption = f"{heading}true → predicted, probability of the prediction ({analysis.weights})"
            report.figure(f"gradcam_{which}", figures.grid(pictures, titles, caption))
        for layer in layers:
            strips = [
                figures.side_by_side([figures.enlarge(image), *pair])
                for image, pair in zip(images, heat[layer], strict=True)
            ]
            heading = f"{method} of {layer}: the picture, what speaks for the true class, what for the predicted one\n"
            caption = f"{heading}all dark: nothing; true → predicted, its probability ({analysis.weights})"
            titles = [_error_title(test, i, data.pictures.classes, most=24) for i in drawn]
            report.figure(f"gradcam_{layer}", figures.grid(strips, titles, caption, columns=2))


class Scores(ReportCallback):
    """Writes how good the network is, overall and class by class, and what it says about every test picture.

    Args:
        flip_averaging: Whether to tell, too, how good the mean of what it says about each test picture and about its
            mirror image is (arXiv 2404.00498, section 3.5); takes one more pass over the test set. Everything else
            goes by the pictures as they are. For things that may as well be the other way round: not for digits.

    Attributes:
        FINAL: Names of the final figures in the loggers.
    """

    FINAL = ("test/loss", "test/accuracy", "test/calibration_error", "final_train/loss", "final_train/accuracy")

    def __init__(self, flip_averaging: bool = False) -> None:
        self.flip_averaging = flip_averaging

    def compute(self, analysis: Analysis) -> None:
        """Ask for the passes over test and training set."""
        _ = analysis.test, analysis.train
        if self.flip_averaging:
            analysis.average_flips()

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `metrics.json`, `predictions.csv`, and the class-wise, confusion and calibration tables and figures."""
        test, train, classes = analysis.test, analysis.train, analysis.data.pictures.classes
        flipped = analysis.flip_averaged
        splits = {"test": test, **({"test_flip_averaged": flipped} if flipped else {}), "train": train}
        table, calibration = metrics.confusion(test), metrics.calibration(test)
        by_class = metrics.class_scores(table)
        pictures = analysis.data.pictures
        report.json(
            "metrics",
            {
                "weights": analysis.weights,
                "parameters": sum(parameter.numel() for parameter in analysis.net.parameters()),
                "fingerprints": {"train": pictures.train.fingerprint, "test": pictures.test.fingerprint},
                **{name: metrics.summary(one) for name, one in splits.items()},
            },
        )
        final_figures = (test.loss, test.accuracy, calibration.error, train.loss, train.accuracy)
        averaged = {"test/accuracy_flip_averaged": flipped.accuracy} if flipped else {}
        report.scalars({**dict(zip(self.FINAL, final_figures, strict=True)), **averaged})
        write_csv(report.folder / "predictions.csv", test, classes, pictures.test.files)
        rows = zip(classes, table.sum(axis=1), by_class.recall, by_class.precision, by_class.f1, strict=True)
        report.table("class_accuracy", ("class", "test_pictures", "accuracy", "precision", "f1"), rows)
        report.figure("class_accuracy", figures.class_bars(classes, by_class.recall, test.accuracy))
        counts = [(name, *row) for name, row in zip(classes, table, strict=True)]
        report.table("confusion", ("true \\ predicted", *classes), counts)
        report.figure("confusion", figures.confusion(table, classes))
        report.figure(
            "calibration",
            figures.reliability(calibration.count, calibration.confidence, calibration.accuracy, calibration.error),
        )


class Projector(ReportCallback):
    """Shows the test set as the network's last layer sees it, in TensorBoard's Projector.

    Args:
        pictures: How many of them, drawn at random, 0 or more; 0 turns it off.
    """

    def __init__(self, pictures: int = 10_000) -> None:
        self.pictures = _at_least("projector.pictures", pictures, 0)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the pass over the test set."""
        _ = analysis.test

    def write(self, analysis: Analysis, report: Report) -> None:
        """Hand the features, reduced to their principal components, with labels and thumbnails to TensorBoard."""
        test, split, classes = analysis.test, analysis.data.pictures.test, analysis.data.pictures.classes
        chosen = np.sort(np.random.default_rng(0).permutation(len(test))[: self.pictures])
        if test.features is None or len(chosen) < 2 or not report.logs:
            return
        names = np.array(classes)
        true, predicted = names[test.labels[chosen]], names[test.predicted[chosen]]
        right = np.where(true == predicted, "right", "wrong")
        report.embedding(
            "test_features",
            metrics.principal_components(test.features[chosen]),
            ("true", "predicted", "right", "index"),
            list(zip(true, predicted, right, test.indices[chosen], strict=True)),
            figures.thumbnails((split.images[index] for index in test.indices[chosen]), THUMBNAIL),
        )


class Curves(ReportCallback):
    """Draws how the training went."""

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `history.csv` and `curves.png`."""
        if rows := analysis.history:
            keys = list(dict.fromkeys(key for row in rows for key in row))
            report.table("history", keys, [[row.get(key, "") for key in keys] for row in rows])
            report.figure("curves", figures.curves(rows))


class Page(ReportCallback):
    """Writes everything on one page.

    Args:
        listed: How many of the misclassified pictures are on the page, the most wrong first, 0 or more; default: all.
        explained: How many of the most wrong pictures get maps on the page, 0 or more.
        scored: How many of them get the faithfulness scores (ROAD) of their maps, 0 or more. On two cores a picture of
            32 px takes about 2 s.
        method: How the maps are made; see GradCAMPictures.
    """

    def __init__(
        self, listed: int | None = None, explained: int = 100, scored: int = 10, method: str = "GradCAM"
    ) -> None:
        self.listed = None if listed is None else _at_least("page.listed", listed, 0)
        self.explained = _at_least("page.explained", explained, 0)
        self.scored = _at_least("page.scored", scored, 0)
        self.method = cams.check("gradcam.method", method)

    def compute(self, analysis: Analysis) -> None:
        """Ask for the passes over test and training set."""
        _ = analysis.test, analysis.train

    def write(self, analysis: Analysis, report: Report) -> None:
        """Write `index.html` and `README.md`."""
        html, readme = page.build(analysis, report.folder, self.listed, self.explained, self.scored, self.method)
        replace_text(report.folder / "index.html", html)
        replace_text(report.folder / "README.md", readme)


class Summary(ReportCallback):
    """Says on the screen what came out and where to look."""

    def compute(self, analysis: Analysis) -> None:
        """Ask for the passes over test and training set."""
        _ = analysis.test, analysis.train

    def write(self, analysis: Analysis, report: Report) -> None:
        """Print it."""
        if not analysis.problems:  # an earlier attempt may have left some
            (report.folder / "problems.txt").unlink(missing_ok=True)
        test, train, classes = analysis.test, analysis.train, analysis.data.pictures.classes
        flipped = analysis.flip_averaged
        low, high = metrics.accuracy_interval(len(test) - len(test.errors), len(test))
        by_class = metrics.class_scores(metrics.confusion(test)).recall
        worst = int(np.nanargmin(by_class))
        command = "tensorboard" if shutil.which("tensorboard") else str(Path(sys.executable).with_name("tensorboard"))
        rank_zero_info(
            f"\ntest accuracy  {test.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})   loss {test.loss:.3f}   "
            f"({analysis.weights}; {len(test.errors)} of {len(test)} pictures wrong)\n"
            + (f"flip-averaged  {flipped.accuracy:.2%}   loss {flipped.loss:.3f}\n" if flipped else "")
            + f"train accuracy {train.accuracy:.2%}   loss {train.loss:.3f}   ({len(train)} pictures, not augmented)\n"
            f"weakest class  {classes[worst]}, {by_class[worst]:.2%}\n"
            f"report         {report.folder / 'index.html'}"
            + (
                f"\nTensorBoard    {shlex.join([command, '--logdir', str(report.folder.parent.parent.parent)])}"
                if report.logs
                else ""
            )
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


def _at_least(option: str, value: int, least: int) -> int:
    if value < least:
        raise UsageError(f"{option} must be {least} or more, got {value}")
    return value
