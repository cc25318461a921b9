"""The argument parser: Lightning's, with short errors."""

import difflib
import re
from typing import NoReturn

import torch
from pytorch_lightning.cli import LightningArgumentParser

from cifar_lit.utils.errors import UsageError

OPTIMIZERS = {name.lower(): name for name, one in vars(torch.optim).items() if isinstance(one, type)}
HINT = "All options: --help; the configuration as it is: --print_config"


class Parser(LightningArgumentParser):
    """Says what is wrong in one line instead of fifty lines of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's complaint, with the nearest existing option for an unknown one."""
        text = re.sub(r"<class '(\w+)'>|typing\.(\w+)", r"\1\2", " ".join(message.split()))
        if group := re.match(r'Parser key "([\w.]+)": Unable to load config', text):
            options = [f"--{name}" for name in self._option_names() if name.startswith(f"{group[1]}.")]
            text = f"{group[1]} is a group of options; give {options[0] if options else 'one of them'}"
        if missing := re.match(r'Parser key "config": File does not exist: \'(.*)\'', text):
            text = f"--config {missing[1]}: there is no such file; the recipes are in configs/"
        if re.match(r"Unexpected config:", text):
            text = "--config: the file holds no options, such as `data: {flip: 0.5}`; the recipes are in configs/"
        text = re.sub(r'Parser key "([\w.]+)":', r"\1:", text)
        text = re.sub(  # of a value that may be of several kinds: only what they are, and what was given
            r"(?:- Expected a path but .*? )?(?:- )?Does not validate against any of the Union subtypes "
            r"Subtypes: (\[.*?\]) Errors: .*Given value: ",
            r"Expected one of \1. Got value: ",
            text,
        )
        text = re.sub(r"Expected a Literal\[(.*?)\]\.?", r"choose one of \1.", text)
        if unknown := re.match(r"(?:Unrecognized|unrecognized) arguments: (\S+\.ya?ml)\b", text):
            text += f"; a recipe is given with --config {unknown[1]}"
        if optimizer := re.match(r"model\.optimizer: .*?import path string: (\w+)", text):
            near = difflib.get_close_matches(optimizer[1].lower(), OPTIMIZERS, n=1)
            hint = f"; did you mean {OPTIMIZERS[near[0]]}?" if near else ", such as SGD or AdamW"
            text = f"model.optimizer={optimizer[1]}: this is no class of torch.optim{hint}"
        text = re.sub(r"\ba int\b", "an int", text)
        text = text.split(HINT)[0].rstrip()  # a group inside of a group has said it already
        known = self._option_names()
        for name in re.findall(r"(?:--|[Kk]ey '|option '?)([\w.]+)", text):
            near = difflib.get_close_matches(name, known, n=1)
            if near and name not in known:
                text += f"; did you mean --{near[0]}?"
                break
        raise UsageError(f"{text}\n{HINT}") from None

    def _option_names(self) -> list[str]:
        return [action.dest for action in self._actions]
