"""What the page shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What the page shows; see `HTMLReport`."""

    max_listed: int | None
    num_cams: int
    method: str
    slices: bool = True
    num_neighbors: int = 0
