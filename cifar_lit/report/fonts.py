"""Fonts for text in any script: matplotlib's own has neither Chinese characters nor most emoji."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from matplotlib.font_manager import findfont, findSystemFonts, fontManager, ttfFontProperty
from matplotlib.ft2font import FT2Font

DEFAULT = "DejaVu Sans"  # comes with matplotlib


def families(text: str) -> list[str]:
    """Return the font families with which matplotlib can draw a text: its own, and installed ones where necessary."""
    return list(dict.fromkeys([DEFAULT, *filter(None, map(_family, text))]))


def class_names(classes: Sequence[str], max_length: int) -> list[str]:
    """Return class names for a figure: shortened; the number in place of one for which no font is installed."""
    return [shorten(name, max_length) for name in _drawable(tuple(classes))]


def shorten(name: str, max_length: int) -> str:
    """Cut a long class name off."""
    return name if len(name) <= max_length else name[: max_length - 1] + "…"


def replace_missing(text: str) -> str:
    """Return a text with a question mark in place of each character for which no font is installed."""
    return "".join(character if _family(character) else "?" for character in text)


@cache
def _drawable(classes: tuple[str, ...]) -> list[str]:
    missing = [name for name in classes if not all(map(_family, name))]
    if missing:
        warnings.warn(
            f"no font is installed for the class names {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}: the "
            "figures show their numbers; install a font that has them, for example Noto Sans CJK for Chinese",
            stacklevel=2,
        )
    return [f"class {number}" if name in missing else name for number, name in enumerate(classes)]


@cache
def _family(character: str) -> str | None:
    """Return a font family that has a character, None if there is none."""
    if character.isspace():  # also a line feed, which no font has
        return DEFAULT
    if ord(character) in _characters(findfont(DEFAULT)):
        return DEFAULT
    return next((_register(path) for path in _installed() if ord(character) in _characters(path)), None)


@cache
def _register(path: str) -> str:
    """Make matplotlib use a font, which may be newer than its list, and return the font's family."""
    font = replace(ttfFontProperty(FT2Font(path)), style="normal", weight=400)  # it logs deviations from these
    fontManager.ttflist.append(font)
    return font.name


@cache
def _installed() -> list[str]:
    """Return the paths of the system's fonts, regular ones first."""
    return sorted(findSystemFonts(), key=lambda path: ("Regular" not in path, path))


@cache
def _characters(path: str) -> frozenset[int]:
    """Return the code points that a font has; none if matplotlib cannot draw it, as colored emoji."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
