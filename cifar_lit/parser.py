"""The argument parser: Lightning's, with short errors."""

import difflib
import re
from typing import NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from cifar_lit.errors import UsageError


class Parser(LightningArgumentParser):
    """Says what is wrong in one line instead of fifty lines of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's complaint, with the nearest existing option for an unknown one."""
        text = " ".join(message.split())
        known = [action.dest for action in self._actions]
        for name in re.findall(r"(?:--|[Kk]ey '|option '?)([\w.]+)", text):
            near = difflib.get_close_matches(name, known, n=1)
            if near and name not in known:
                text += f"; did you mean {near[0]}?"
                break
        raise UsageError(f"{text}\nAll options: --help; the configuration as it is: --print_config") from None
