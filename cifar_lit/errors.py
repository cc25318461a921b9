"""The two kinds of error that a user is told about without a traceback."""


class UsageError(ValueError):
    """An option or a file that the user gave cannot be used: exit code 2.

    The message names the option and what to do instead.
    """


class RunError(RuntimeError):
    """Something outside failed while working (network, disk, diverging training): exit code 1.

    The message says what happened and what to do next.
    """
