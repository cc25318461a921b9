"""The arguments of a command."""

import os
import re
import sys
from collections.abc import Sequence

from cifar_lit.utils.errors import UsageError


def arguments(args: Sequence[object] | None) -> list[str]:
    """Return the arguments of a command as strings, by default those of the process, with `~` as the home folder.

    Shells replace it in `--out ~/a.csv`, but not in `--out=~/a.csv`, and Python not at all.

    Raises:
        UsageError: They are one string, or those of a notebook's kernel.
    """
    if isinstance(args, str) or (args is None and re.search("ipykernel|kernel_launcher", sys.argv[0])):
        raise UsageError('pass the arguments as a list, such as main(["--config", "demo"])')
    given = sys.argv[1:] if args is None else [str(one) for one in args]
    return [re.sub(r"^(--[\w.]+=|)(~[^/]*)", lambda path: path[1] + os.path.expanduser(path[2]), one) for one in given]
