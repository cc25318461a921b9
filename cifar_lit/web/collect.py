"""Collect what a page shows of a run."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.inference.classifier import Classifier
from cifar_lit.inference.model_card import model_card
from cifar_lit.models.weights import TrainedNetwork
from cifar_lit.report.results import RunResults
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write_text
from cifar_lit.web.content import CARD, Content, TestImage, save_image
from cifar_lit.web.server import WEIGHTS

NUM_EXAMPLES = 10


def collect(run: str, folder: Path, max_errors: int) -> Classifier:
    """Write the content of a page into a folder, and return the network.

    Args:
        run: Folder of a run; without a report, or for a `.ckpt` file, the content says what is missing.
        folder: The folder.
        max_errors: How many misclassified images to write.

    Raises:
        UsageError: There is no such run or checkpoint.
    """
    checkpoint: str | Path = run
    try:
        results = RunResults.load(run)
        checkpoint = results.checkpoint or run
        results.data.download = False
        return collect_results(results, folder, max_errors)
    except UsageError as error:
        classifier = Classifier.load(checkpoint)
        missing = str(error) if Path(run).is_dir() else "They belong to a run: use its folder."
        reason = f"There are no examples, no misclassified test images and no model card. {missing}"
        summary = _summary(classifier.classes, classifier.image_size)
        Content(f"ResNet-18, {Path(run).name}", summary, classifier.layer_choice[0], missing=reason).save(folder)
        return classifier


def collect_results(results: RunResults, folder: Path, max_errors: int) -> Classifier:
    """Write the content of a page into a folder, and return the network, for images of the size that was evaluated.

    Raises:
        UsageError: The test images are no longer there.
    """
    beside = results.checkpoint.parent if results.checkpoint else None
    classifier = Classifier(TrainedNetwork(results.network, results.classes, results.data.image_size, beside))
    test = results.test
    rows_of = {
        "examples": choose_examples(test.labels, test.predicted, NUM_EXAMPLES),
        "errors": test.errors[:max_errors],
    }
    parts: dict[str, Any] = {}
    for name, rows in rows_of.items():
        parts[name] = tuple(
            TestImage(
                save_image(folder, f"{name}/{number:03}.png", image),
                results.classes[test.labels[row]],
                results.classes[test.predicted[row]],
            )
            for number, (row, image) in enumerate(zip(rows.tolist(), results.images(rows), strict=True))
        )
    quality = f"It classifies {test.accuracy:.1%} of {len(test):,} test images correctly."
    summary = f"{_summary(results.classes, results.data.image_size)} {quality}"
    parts |= {"num_errors": len(test.errors), "num_test": len(test)}
    Content(f"ResNet-18, {results.name}", summary, classifier.layer_choice[0], **parts).save(folder)
    atomic_write_text(folder / CARD, model_card(results, WEIGHTS))
    return classifier


def choose_examples(labels: NDArray[np.int64], predicted: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the rows of the first correctly classified images of each class in turn, `count` or fewer."""
    correct = np.flatnonzero(labels == predicted)
    of_class = labels[correct]
    turn = np.array([(of_class[:i] == label).sum() for i, label in enumerate(of_class)], np.int64)
    return correct[np.lexsort((of_class, turn))][:count]


def _summary(classes: tuple[str, ...], image_size: int) -> str:
    return f"A network for {len(classes)} classes that sees images of {image_size} x {image_size} px."
