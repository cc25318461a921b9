"""The arguments of a command."""

import re
import sys
from collections.abc import Sequence

from cifar_lit.utils.errors import UsageError


def arguments(args: Sequence[object] | None) -> list[str]:
    """Return the arguments of a command as strings, by default those of the process.

    Raises:
        UsageError: They are one string, or those of a notebook's kernel.
    """
    if isinstance(args, str) or (args is None and re.search("ipykernel|kernel_launcher", sys.argv[0])):
        raise UsageError('pass the arguments as a list, such as main(["--config", "demo"])')
    return sys.argv[1:] if args is None else [str(one) for one in args]
