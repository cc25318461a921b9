"""What a Trainer has that is missing from Lightning's type annotations."""

from typing import TypeVar

from pytorch_lightning import Callback, Trainer

T = TypeVar("T")


def find_callbacks(trainer: Trainer, kind: type[T]) -> list[T]:
    """Return the trainer's callbacks of a class, in its order."""
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return [callback for callback in callbacks if isinstance(callback, kind)]


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Return whether the trainer only tries a few steps, and keeps nothing."""
    return bool(getattr(trainer, "fast_dev_run", False))
