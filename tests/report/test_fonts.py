import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import pytest

from cifar_lit.report import drawing, figures, fonts
from cifar_lit.report.results import RunResults

NAMES = ("猫", "bee", "naïve 🦊")
CACHES = (fonts._drawable, fonts._family, fonts._register, fonts._installed)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The fonts that are installed; at first none."""
    paths: list[str] = []
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: paths)
    for cache in CACHES:
        cache.cache_clear()
    yield paths
    for cache in CACHES:
        cache.cache_clear()


def test_without_a_font_the_figures_show_numbers_and_a_single_warning_says_so(
    make_results: Callable[..., RunResults], installed: list[str]
) -> None:
    results = make_results(classes=NAMES)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        accuracy = figures.class_accuracy(results)
        for figure in (
            accuracy,
            figures.confusion(results),
            figures.misclassified(results),
            drawing.sentence("猫"),
        ):
            drawing.to_array(figure)
    assert len(caught) == 1 and "no font is installed for the class names 猫, naïve 🦊" in str(caught[0].message)
    assert {label.get_text() for label in accuracy.axes[0].get_yticklabels()} == {"class 0", "bee", "class 2"}


def test_an_installed_font_is_used_for_what_the_default_font_lacks(installed: list[str]) -> None:
    # A font of matplotlib's that has a glyph for every character, as a stand-in.
    stand_in = Path(matplotlib.get_data_path()) / "fonts/ttf/LastResortHE-Regular.ttf"
    installed.append(str(stand_in))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts.class_names(NAMES, 24) == list(NAMES)
        assert fonts.families("bee") == [fonts.DEFAULT]
        assert fonts.families("猫 bee") == [fonts.DEFAULT, "Last Resort High-Efficiency"]
        boxes, text = (drawing.to_array(drawing.sentence(name)) for name in ("?", "猫"))
    assert (boxes != text).any()


def test_unreadable_and_bitmap_fonts_are_passed_over(installed: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    installed.append(str(tmp_path / "broken.ttf"))
    assert fonts.replace_missing("猫 bee") == "? bee"
