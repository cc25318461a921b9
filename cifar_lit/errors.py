"""The two kinds of error that a user is told about without a traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """An option or a file that the user gave cannot be used: exit code 2.

    The message names the option and what to do instead.
    """


class RunError(RuntimeError):
    """Something outside failed while working (network, disk, diverging training): exit code 1.

    The message says what happened and what to do next.
    """


@contextmanager
def short_errors() -> Iterator[None]:
    """Turn what a user can mend into one message and an exit code: 2 for usage, 1 for failure."""
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except (UsageError, MisconfigurationException) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(f"error: {error}; what was written before is kept. Make room or choose a folder", file=sys.stderr)
        sys.exit(1)
