"""Scores over the test set and class by class."""

import os
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn

from cifar_lit.callbacks.evaluation import Needs
from cifar_lit.callbacks.report import ReportCallback
from cifar_lit.models import temperature
from cifar_lit.models.weights import fingerprint
from cifar_lit.report import confidence_figures, data_figures, figures, tables
from cifar_lit.report.results import RunResults
from cifar_lit.report.writer import ReportWriter


class Scores(ReportCallback):
    """Writes accuracy, loss and calibration, overall and class by class, and the prediction for every image.

    Args:
        flip_tta: Whether to also report flip TTA, the mean logits of each test image and its mirror image (arXiv
            2404.00498, section 3.5), in one more pass; not for classes that change when mirrored, such as digits.
        temperature: Whether to fit a temperature (arXiv 1706.04599) to the validation images, if any: the scores with
            it are reported, too, and `predict --calibrated` uses it.
        slices: Whether to report accuracy by brightness, contrast, sharpness and colorfulness.
        duplicates: Whether to list test images that are near-duplicates of training images, and to report the accuracy
            without them; for photos, because simple drawings are alike.
    """

    def __init__(
        self, flip_tta: bool = False, temperature: bool = True, slices: bool = True, duplicates: bool = True
    ) -> None:
        self.needs = Needs(flip_tta=flip_tta, val=temperature, duplicates=duplicates)
        self.slices = slices

    def write(self, results: RunResults, writer: ReportWriter) -> None:
        """Write `metrics.json`, the predictions, and tables and figures of classes, confusion and calibration."""
        file = results.checkpoint and os.path.relpath(results.checkpoint, writer.folder)  # the run may be moved
        writer.json("metrics", {"checkpoint": file} | tables.metrics(results))
        writer.scalars(tables.final_scores(results))
        files = results.test_images.files
        writer.predictions("predictions", results.test, results.classes, files)
        if results.train:
            writer.predictions("predictions_train", results.train, results.classes, results.data.splits.train.files)
        if results.test_flip_tta:
            writer.predictions("predictions_flip_tta", results.test_flip_tta, results.classes, files)
        if results.val:
            writer.predictions("predictions_val", results.val, results.classes, results.data.splits.train.files)
            self._store(results, writer.checkpoints)
        writer.table("risk_coverage", *tables.risk_coverages(results))
        writer.figure("risk_coverage", confidence_figures.risk_coverage_curve(results))
        if self.slices:
            writer.table("slices", *tables.slices(results))
            if results.slices:
                writer.figure("slices", data_figures.slices(results))
        if results.duplicates is not None:
            writer.table("near_duplicates", *tables.near_duplicates(results))
        writer.table("class_accuracy", *tables.class_accuracy(results))
        writer.figure("class_accuracy", figures.class_accuracy(results))
        writer.table("confusion", *tables.confusion(results))
        writer.figure("confusion", figures.confusion(results))
        writer.figure("calibration", figures.reliability(results))

    def _store(self, results: RunResults, folder: Path | None) -> None:
        """Store the temperature beside the checkpoint of the weights, if there is one."""
        if not results.temperature or not folder or not folder.is_dir():
            return
        weights = fingerprint(results.network, results.classes, results.data.image_size)
        try:
            temperature.store(folder, weights, results.temperature)
        except OSError as error:
            rank_zero_warn(f"{folder}: the temperature cannot be stored there for predict --calibrated ({error})")
