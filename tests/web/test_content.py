"""What is collected of a run for its page."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_lit.report.results import RunResults
from cifar_lit.web.collect import choose_examples, collect, collect_results
from cifar_lit.web.content import Content, read_card


def test_content_of_a_run(make_results: Callable[..., RunResults], tmp_path: Path) -> None:
    results = make_results()
    classifier = collect_results(results, tmp_path, max_errors=4)
    content = Content.load(tmp_path)
    assert content.layer == classifier.layer_choice[0]
    assert len(content.examples) == 10 and all(image.true == image.predicted for image in content.examples)
    assert content.num_errors == len(results.test.errors) == 10
    for row, image in zip(results.test.errors[:4], content.errors, strict=True):
        assert image.true == results.classes[results.test.labels[row]] != image.predicted
        assert (np.asarray(Image.open(tmp_path / image.file)) == results.test_images.images[row]).all()
    card = read_card(tmp_path)
    assert card.startswith("# ResNet-18, demo/version_0") and "10 of 30 test images are misclassified" in card


def test_network_gets_images_of_the_size_that_was_evaluated(
    make_results: Callable[..., RunResults], tmp_path: Path
) -> None:
    results = make_results()
    results.data.image_size = 48
    classifier = collect_results(results, tmp_path, max_errors=1)
    assert classifier.image_size == 48 and "48 x 48 px" in Content.load(tmp_path).summary


def test_examples_are_of_all_classes() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    predicted = np.array([0, 0, 0, 1, 0, 2, 2, 1])
    assert choose_examples(labels, predicted, 4).tolist() == [0, 3, 5, 1]
    assert choose_examples(labels, predicted, 100).tolist() == [0, 3, 5, 1, 6, 2]


def test_checkpoint_without_a_run(finished_run: Path, tmp_path: Path) -> None:
    classifier = collect(str(finished_run / "checkpoints" / "best.ckpt"), tmp_path, max_errors=4)
    content = Content.load(tmp_path)
    assert len(classifier.classes) == 10 and "10 classes" in content.summary
    assert content.examples == content.errors == () and "use its folder" in content.missing
    assert read_card(tmp_path) == ""
