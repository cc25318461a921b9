"""The temperature of a network, kept beside its checkpoint."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cifar_lit.utils.files import atomic_write_text

FILE = "temperature.json"


@dataclass(frozen=True)
class Temperature:
    """A number by which logits are divided before the softmax; it changes probabilities, not predicted classes.

    Attributes:
        value: Above 0; more than 1 if the network is overconfident.
        low: Lower end of its 95% interval.
        high: Upper end.
        images: Number of images that it was fitted to.
    """

    value: float
    low: float
    high: float
    images: int


def store(folder: Path, weights: str, temperature: Temperature) -> None:
    """Add the temperature of a network to `temperature.json`.

    Args:
        folder: That of the checkpoint.
        weights: Fingerprint of the network that it belongs to; other weights do not use it.
        temperature: The temperature.
    """
    if find(folder, weights) == temperature:
        return
    found = {**_read(folder), weights: asdict(temperature)}
    atomic_write_text(folder / FILE, json.dumps(found, indent=2) + "\n")


def find(folder: Path, weights: str) -> Temperature | None:
    """Return the temperature that was stored for a network; None if there is none."""
    found = _read(folder).get(weights)
    return Temperature(**found) if found else None


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
