from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from cifar_lit.analysis.predictions import Predictions
from cifar_lit.report import drawing, figures, inline
from cifar_lit.report.epochs import EpochRow
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.report.provenance import Provenance
from cifar_lit.report.results import RunResults


def plain(size: int = 32, value: int = 200) -> np.ndarray:
    return np.full((size, size, 3), value, dtype=np.uint8)


def test_enlarging_keeps_every_pixel_sharp() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    large = drawing.enlarge(image)
    assert large.shape == (160, 160, 3)
    assert (large[2::5, 2::5] == image).all() and (large[::5, ::5] == large[4::5, 4::5]).all()
    assert drawing.enlarge(plain(8)).shape[0] == 160
    assert drawing.enlarge(plain(224)).shape[0] == 224
    assert drawing.enlarge(np.zeros((64, 32, 3), dtype=np.uint8)).shape[:2] == (320, 160)  # as wide as its title


def test_overlay_is_brightest_where_the_map_is() -> None:
    cam = np.zeros((32, 32), dtype=np.float32)
    cam[24:, :8] = 1.0
    got = drawing.overlay(plain(value=100), cam)
    brightness = got.astype(int).sum(axis=2)
    assert brightness[130:155, 5:30].mean() > 2 * brightness[:60, 100:].mean()
    assert got.shape == (160, 160, 3) and got.dtype == np.uint8


@pytest.mark.parametrize("count", [1, 4, 5, 7, 20, 23])
def test_a_grid_of_any_number(count: int) -> None:
    images = [drawing.enlarge(plain(value=10 * i)) for i in range(count)]
    figure = drawing.grid(images, [f"cat → dog\n{i}%" for i in range(count)], "heading")
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == count
    assert [axis.get_title() for axis in drawn] == [f"cat → dog\n{i}%" for i in range(count)]
    assert len({axis.get_position().y0.round(3) for axis in drawn}) == -(-count // 5)  # rows of five


def test_curves_leave_out_metrics_that_are_none(make_results: Callable[..., RunResults]) -> None:
    rows = tuple(EpochRow(e, 1.0, 0.1, 3.0 - e, 0.5, 4.0 - e, None, 1.0, 0.0) for e in (1, 2))
    loss, accuracy, lr = figures.curves(make_results(epochs=rows)).axes
    assert [list(line.get_xdata()) for line in loss.lines] == [[1, 2], [1, 2]]
    assert list(loss.lines[1].get_ydata()) == [3.0, 2.0]
    assert len(accuracy.lines) == 1 and len(lr.lines) == 1


@pytest.mark.parametrize(("smoothing", "label"), [(0.1, "train, with label smoothing 0.1"), (0.0, "train")])
def test_legend_says_that_the_training_loss_has_label_smoothing(
    make_results: Callable[..., RunResults], smoothing: float, label: str
) -> None:
    rows = (EpochRow(0, 1.0, 0.1, 2.0, 0.5, 3.0, 0.5, 1.0, 0.0),)
    provenance = Provenance(f"model: {{label_smoothing: {smoothing}}}", ())
    loss, accuracy, _ = figures.curves(make_results(epochs=rows, provenance=provenance)).axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [label, "val"]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["train", "val"]


def test_flat_cams_say_why(make_results: Callable[..., RunResults]) -> None:
    results = make_results()
    results.network.backbone.fc.weight[1] = 0  # no channel is evidence for class 1
    for row, tiny, title in zip(
        results.test.errors,
        figures.gradcam(results, layer="layer4").axes,
        [axis.get_title() for axis in figures.gradcam(results, layer="layer2").axes],
        strict=True,
    ):
        assert tiny.get_title().endswith("%\n1x1: not localized")
        flat = [panel for panel in ("true", "predicted") if f"{panel}: no evidence" in title]
        labels = {"true": results.test.labels[row], "predicted": results.test.predicted[row]}
        assert flat == [panel for panel, label in labels.items() if label == 1]


class WideResults(ErrorResults):
    """Images of 8 x 64 px, with evidence at one column of a CAM `(4, 64)`."""

    default_layer = "layer"
    column = 41

    def images(self, rows: np.ndarray) -> np.ndarray:
        return np.full((len(rows), 8, 64, 3), 100, dtype=np.uint8)

    def cams(self, rows: np.ndarray, layers: Sequence[Any], method: str) -> dict[Any, np.ndarray]:
        cams = np.zeros((len(rows), 2, 4, 64), dtype=np.float32)
        cams[..., self.column] = 1
        return {"layer": cams}


def test_cams_of_wide_images_keep_their_columns(make_results: Callable[..., RunResults]) -> None:
    results = WideResults(("ape", "bee", "cat"), "last weights", make_results(wrong=1).test)
    drawn = figures.gradcam(results, panels=["true"]).axes[0].images[0].get_array()
    brightness = np.asarray(drawn, dtype=int).sum(axis=(0, 2))
    assert brightness.shape == (64 * 20,) and brightness.argmax() // 20 == WideResults.column


def test_long_class_names_are_shortened_and_keep_their_bars(make_results: Callable[..., RunResults]) -> None:
    results = make_results(classes=tuple("a" * 240 + end for end in "xyz"))
    for figure in (figures.class_accuracy(results), figures.confusion(results)):
        drawing.to_array(figure)
        axis = figure.axes[0]
        assert axis.get_position().width > 0.4
        assert [len(label.get_text()) for label in axis.get_yticklabels()] == [24] * 3
    assert len({bar.get_y() for bar in figures.class_accuracy(results).axes[0].patches}) == 3


@pytest.mark.parametrize("count", [3, 50])
def test_confusion_matrix_is_legible(count: int, make_results: Callable[..., RunResults]) -> None:
    figure = figures.confusion(make_results(classes=tuple(f"a class with a long name {i}" for i in range(count))))
    drawing.to_array(figure)
    box, (axis,) = figure.texts[0].get_window_extent(), figure.axes
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1  # the heading is complete
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert len(names) == 3 if count == 3 else "row in confusion.csv" in axis.get_ylabel()  # numbers are explained


def test_class_accuracy_of_many_classes_has_no_empty_rows(make_results: Callable[..., RunResults]) -> None:
    (axis,) = figures.class_accuracy(make_results(classes=tuple(map(str, range(150))))).axes
    assert np.ptp(axis.get_ylim()) < 152


def test_dollar_signs_are_not_typeset_as_formulas(make_results: Callable[..., RunResults]) -> None:
    name = "$1_0_0 → $2"  # two subscripts, as a formula
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    results = make_results(classes=(name, "b", "c"))
    for figure in (
        drawing.grid([image], [name], name),
        figures.class_accuracy(results),
        figures.confusion(results),
        drawing.sentence(name),
    ):
        drawing.to_array(figure)


def test_text_is_not_typeset_by_latex(make_results: Callable[..., RunResults]) -> None:
    results = make_results()

    def draw() -> Figure:
        return drawing.grid([np.zeros((32, 32, 3), dtype=np.uint8)], ["50% of a_b"], "a_b")

    expected, page = drawing.to_array(draw()), inline.svg(lambda: figures.reliability(results))
    with matplotlib.rc_context({"text.usetex": True}):  # as in the style of a user
        assert (drawing.to_array(draw()) == expected).all()
        assert inline.svg(lambda: figures.reliability(results)) == page
        drawing.to_array(figures.reliability(results))


def test_class_accuracy_is_sorted(make_results: Callable[..., RunResults]) -> None:
    labels = np.array([0, 0, 2, 2])
    table = np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]]))
    (axis,) = figures.class_accuracy(make_results(test=Predictions(np.arange(4), labels, table))).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bee", "ape", "cat"]
    assert [text.get_text() for text in axis.texts] == ["no images", "50.0%", "100.0%"]
    assert {text.get_position()[0] for text in axis.texts} == {1.02}  # a column, clear of the bars and of the line


@pytest.mark.parametrize("size", [32, 48, 64, 96, 224])
@pytest.mark.parametrize("count", [3, 5, 10])
def test_to_array_takes_figures_of_any_size(size: int, count: int) -> None:
    figure = drawing.grid([drawing.enlarge(plain(size))] * count, ["cat → dog\n50%"] * count, "one\ntwo")
    pixels = drawing.to_array(figure)
    assert pixels.ndim == 3 and pixels.shape[2] == 3
    np.testing.assert_allclose(pixels.shape[1::-1], figure.get_size_inches() * 120, atol=1)


def test_to_array_renders_the_complete_figure() -> None:
    pixels = drawing.to_array(drawing.sentence("No test image is misclassified."), dpi=100)
    assert pixels.shape == (100, 600, 3) and pixels.dtype == np.uint8
    assert pixels.min() < 50 and pixels.max() == 255


def test_curves_of_one_epoch_have_integer_ticks(make_results: Callable[..., RunResults]) -> None:
    figure = figures.curves(make_results(epochs=(EpochRow(0, 1.0, 0.1, 1.0, 0.5, None, None, 1.0, 0.0),)))
    drawing.to_array(figure)
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [1]
