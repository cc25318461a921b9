"""Checks of the callbacks' options."""

from cifar_lit.utils.errors import UsageError


def at_least(option: str, value: int, least: int) -> int:
    """Return the value, or raise UsageError if it is below the least one."""
    if value < least:
        raise UsageError(f"{option} must be {least} or more, got {value}")
    return value
