"""What the page answers, without gradio."""

import html
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_lit.data.decode import UnreadableError
from cifar_lit.web.views import ANY, Views


@pytest.fixture(scope="module")
def views(make_views: Callable[..., Views]) -> Views:
    return make_views()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that need care, and of files that are none."""
    folder = tmp_path_factory.mktemp("uploads")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    noise.save(folder / "rotated.jpg", exif=exif)
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    rgba = noise.convert("RGBA")
    rgba.putalpha(100)
    rgba.save(folder / "clear.png")
    noise.save(folder / "whole.png")
    (folder / "truncated.png").write_bytes((folder / "whole.png").read_bytes()[:2000])
    (folder / "text.png").write_text("hello")
    (folder / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)  # decodes to 7.5 GB
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    return folder


@pytest.mark.parametrize(
    "name",
    ["rotated.jpg", "cmyk.jpg", "clear.png", "whole.png", "truncated.png", "text.png", "drawing.svg", "bomb.png", "."],
)
def test_uploads_get_the_results_and_messages_of_explain(views: Views, uploads: Path, name: str) -> None:
    file = str(uploads / name)
    answer = html.unescape(views.explain(file, ANY, "layer2", "GradCAM", 2))
    if name == ".":  # the folder of all uploads
        assert 'class="message"' in answer and "directory" in answer
        return
    try:
        expected = views.classifier.explain(file, layers="layer2")
    except UnreadableError as error:
        assert f">{error}<".replace(str(uploads) + "/", "") in answer and "<img" not in answer
        return
    (ranked,) = expected.predictions.top()
    assert f"Evidence for {ranked[0][0]}, {ranked[0][1]:.1%}" in answer and answer.count("<img") == 2
    assert re.findall(r"<b>([\d.]+%)</b><i", answer) == [f"{probability:.1%}" for _, probability in ranked]
    assert answer.count("<li hidden>") == 1  # the third class


def test_class_layer_and_method_change_the_evidence(views: Views, uploads: Path) -> None:
    def explain(label: int, layer: str, method: str) -> str:
        return views.explain(str(uploads / "whole.png"), label, layer, method, 3)  # type: ignore[arg-type]

    answers = [explain(0, "layer1", "GradCAM"), explain(1, "layer1", "GradCAM"), explain(1, "layer2", "GradCAM")]
    assert len({*answers, explain(1, "layer2", "EigenCAM")}) == 4
    assert "Evidence for ape" in answers[0] and "Evidence for bee" in answers[1]
    assert "1x1: not localized" in explain(1, "layer4", "GradCAM")
    assert "drop, paste or choose" in views.explain(None, ANY, "layer1", "GradCAM", 3)
    assert "add it again" in views.explain(str(uploads / "deleted.png"), ANY, "layer1", "GradCAM", 3)
    assert "no such method" in explain(1, "layer1", "Grad")


def test_misclassified_images_are_filtered_and_counted(views: Views) -> None:
    errors = views.content.errors
    assert len(errors) == 5 and views.content.num_errors == 10 and views.content.num_test == 30
    assert views.find_errors(ANY, ANY, 3) == [0, 1, 2]
    ape = views.classifier.classes.index("ape")
    found = views.find_errors(ape, ANY, 100)
    assert {errors[position].true for position in found} == {"ape"}
    assert views.find_errors(ANY, ape, 100) == [i for i, error in enumerate(errors) if error.predicted == "ape"]
    assert views.find_errors(ape, ape, 100) == []
    text = views.describe_errors(ape, ANY, 1)
    assert "10 of 30 test images are misclassified" in text and "Only the 5 with the highest loss" in text
    assert f"{len(found)} are of these classes. Showing 1 " in text


def test_misclassified_image_is_opened_with_the_evidence_for_both_classes(views: Views) -> None:
    error = views.content.errors[1]
    answer = views.open_error(1, "layer1", "GradCAM")
    assert f"True class: {error.true}, " in answer and f"Predicted class: {error.predicted}, " in answer
    assert answer.count('class="heatmap"') == 2
    assert "choose others" in views.open_error(None, "layer1", "GradCAM")


def test_probabilities_are_calibrated(make_views: Callable[..., Views]) -> None:
    views = make_views()
    example = views.path(views.content.examples[0])
    plain = views.classifier.predict(example)
    views.classifier.temperature = 0.25
    scaled = plain.probabilities[0] ** 4 / (plain.probabilities[0] ** 4).sum()
    answer = views.explain(example, ANY, "layer1", "GradCAM", 3, True)
    assert f"Evidence for {plain.labels[0]}, {scaled.max():.1%}" in answer
    assert all(f"<b>{probability:.1%}</b>" in answer for probability in scaled)
    error = views.content.errors[0]
    logits = np.log(views.classifier.predict(views.path(error)).probabilities[0])
    scaled = np.exp(4 * logits) / np.exp(4 * logits).sum()
    for kind, name in (("True", error.true), ("Predicted", error.predicted)):
        probability = scaled[views.classifier.classes.index(name)]
        assert f"{kind} class: {name}, {probability:.1%}" in views.open_error(0, "layer1", "GradCAM", True)


def test_names_of_classes_are_escaped(make_views: Callable[..., Views]) -> None:
    views = make_views(classes=("<b>ape</b>", "'bee'", '"cat"'))
    answer = views.explain(views.path(views.content.examples[0]), 0, "layer1", "GradCAM", 3)
    assert "<b>ape" not in answer and "&lt;b&gt;ape" in answer and "&#x27;bee&#x27;" in answer
