"""What the tortures share: what they are told, and what they report."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


@dataclass
class Row:
    """One torture.

    Attributes:
        part: Where it belongs.
        what: What was tortured.
        how: What was done to it.
        result: What came out.
        survived: Whether nothing was lost and nothing differed.
    """

    part: str
    what: str
    how: str
    result: str
    survived: bool


class WrappedFile:
    """A file with a `write` of another kind."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "WrappedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@dataclass
class Settings:
    """What the parts are told.

    Attributes:
        seed: Of all random choices.
        runs: How many runs to kill.
        writes: How many times to kill while a checkpoint is written.
        scratch: An empty folder for the runs.
        quick: Leave out what is much like the rest.
        made_up: Do not mount file systems, even where that is allowed.
    """

    seed: int
    runs: int
    writes: int
    scratch: Path
    quick: bool = False
    made_up: bool = False

    def tell(self, row: Row) -> None:
        """Say on the screen what came out."""
        verdict = "survived" if row.survived else "LOST"
        print(f"  {verdict}: {row.what}; {row.how}: {row.result}", file=sys.stderr, flush=True)

    def done(self, *folders: Path, keep: bool = False) -> None:
        """Remove what is not needed any more; keep it for a look where something went wrong."""
        for folder in folders:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
