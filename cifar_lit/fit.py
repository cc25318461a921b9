"""Train, find what the network gets wrong, show why: `python -m cifar_lit.fit`."""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cifar_lit.errors import RunError, UsageError


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


def main(args: Sequence[str] | None = None) -> None:
    """Run with command-line arguments, those of the process by default.

    Raises:
        SystemExit: With 2 for an unusable option or file, with 1 for a failure.
    """
    with short_errors():
        from cifar_lit.cli import FitCLI

        FitCLI(sys.argv[1:] if args is None else args).fit()


if __name__ == "__main__":
    main()
