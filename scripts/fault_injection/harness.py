"""Settings and results shared by all parts."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Settings:
    """Options of a part.

    Attributes:
        seed: Seed of all random choices.
        runs: Number of runs to kill.
        writes: Number of kills during checkpoint writes.
        scratch: Empty folder for the runs.
        quick: Skip cases that are similar to others.
        simulate_disk: Do not mount file systems, even where that is permitted.
    """

    seed: int
    runs: int
    writes: int
    scratch: Path
    quick: bool = False
    simulate_disk: bool = False


@dataclass
class Row:
    """Result of one injected fault.

    Attributes:
        part: Name of the part.
        what: What was disturbed.
        fault: What was done to it.
        result: What happened.
        survived: Whether nothing was lost and nothing differs from an undisturbed run.
    """

    part: str
    what: str
    fault: str
    result: str
    survived: bool

    @classmethod
    def of(cls, part: str, what: str, fault: str, failures: list[str], success: str = "identical") -> "Row":
        """Create a row from a list of failures; an empty list means success."""
        return cls(part, what, fault, "; ".join(failures) or success, not failures)


class WrappedFile:
    """Forward everything to an open file; subclasses override `write`."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "WrappedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def remove(*folders: Path) -> None:
    """Delete the folders of runs that survived; the others are kept for inspection."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
