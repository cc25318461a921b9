"""Shared by the parts of the report."""

from cifar_lit.analysis.predictions import Predictions
from cifar_lit.utils.errors import UsageError


def error_title(predictions: Predictions, row: int, classes: tuple[str, ...], most: int = 12) -> str:
    """Return the true and the predicted class with its probability."""
    predicted = predictions.predicted[row]
    true = classes[predictions.labels[row]]
    return f"{_short(true, most)} → {_short(classes[predicted], most)}\n{predictions.probabilities[row, predicted]:.0%}"


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def at_least(option: str, value: int, least: int) -> int:
    """Return the value, or refuse one that is below the least."""
    if value < least:
        raise UsageError(f"{option} must be {least} or more, got {value}")
    return value
