"""Words in messages."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 file` and `2,000 files`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
