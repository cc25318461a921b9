import numpy as np
import pytest

from cifar_lit.report import figures


def plain(size: int = 32, value: int = 200) -> np.ndarray:
    return np.full((size, size, 3), value, dtype=np.uint8)


def test_enlarging_keeps_every_pixel_sharp() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    large = figures.enlarge(image)
    assert large.shape == (160, 160, 3)
    assert (large[2::5, 2::5] == image).all() and (large[::5, ::5] == large[4::5, 4::5]).all()
    assert figures.enlarge(plain(8)).shape[0] == 160
    assert figures.enlarge(plain(224)).shape[0] == 224


def test_overlay_is_brightest_where_the_map_is() -> None:
    heat = np.zeros((32, 32), dtype=np.float32)
    heat[24:, :8] = 1.0
    got = figures.overlay(plain(value=100), heat)
    brightness = got.astype(int).sum(axis=2)
    assert brightness[130:155, 5:30].mean() > 2 * brightness[:60, 100:].mean()
    assert got.shape == (160, 160, 3) and got.dtype == np.uint8


@pytest.mark.parametrize("count", [1, 4, 5, 7, 20, 23])
def test_a_grid_of_any_number(count: int) -> None:
    images = [figures.enlarge(plain(value=10 * i)) for i in range(count)]
    figure = figures.grid(images, [f"cat → dog\n{i} %" for i in range(count)], "heading")
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == count
    assert [axis.get_title() for axis in drawn] == [f"cat → dog\n{i} %" for i in range(count)]
    assert len({axis.get_position().y0.round(3) for axis in drawn}) == -(-count // 5)  # rows of five


def test_curves_draw_what_is_there() -> None:
    history = [
        {"epoch": e, "train/loss": 2.0 - e, "val/loss": 3.0 - e, "lr": 0.1, "train/accuracy": 0.5} for e in (0, 1)
    ]
    loss, accuracy, rate = figures.curves(history).axes
    assert [list(line.get_xdata()) for line in loss.lines] == [[1, 2], [1, 2]]
    assert list(loss.lines[1].get_ydata()) == [3.0, 2.0]
    assert len(accuracy.lines) == 1 and len(rate.lines) == 1  # no validation accuracy in there


def test_dollars_are_no_formula() -> None:
    name = "$1_0_0 → $2"  # which as a formula has two subscripts
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    for figure in (
        figures.grid([image], [name], name),
        figures.class_bars([name, "b"], np.array([0.5, 0.6]), 0.5),
        figures.confusion(np.eye(2, dtype=np.int64), [name, "b"]),
        figures.sentence(name),
    ):
        figures.to_array(figure)


def test_class_bars_from_best_to_worst() -> None:
    (axis,) = figures.class_bars(["a", "b", "c"], np.array([0.5, np.nan, 0.9]), 0.7).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "a", "c"]
    assert [text.get_text() for text in axis.texts] == ["no images", "50.0%", "90.0%"]


@pytest.mark.parametrize("size", [32, 48, 64, 96, 224])
@pytest.mark.parametrize("count", [3, 5, 10])
def test_to_array_takes_figures_of_any_size(size: int, count: int) -> None:
    figure = figures.grid([figures.enlarge(plain(size))] * count, ["cat → dog\n50%"] * count, "one\ntwo")
    pixels = figures.to_array(figure)
    assert pixels.ndim == 3 and pixels.shape[2] == 3
    np.testing.assert_allclose(pixels.shape[1::-1], figure.get_size_inches() * 120, atol=1)


def test_to_array_gives_the_whole_figure() -> None:
    pixels = figures.to_array(figures.sentence("No test image is misclassified."), dpi=100)
    assert pixels.shape == (100, 600, 3) and pixels.dtype == np.uint8
    assert pixels.min() < 50 and pixels.max() == 255


def test_the_curves_of_one_epoch_have_whole_epochs_on_their_axes() -> None:
    figure = figures.curves([{"epoch": 0, "train/loss": 1.0, "train/accuracy": 0.5, "lr": 0.1}])
    figures.to_array(figure)
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [1]
