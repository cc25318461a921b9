"""What exactly ran: the options, commands, versions and hardware of a run."""

import json
from dataclasses import dataclass, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from cifar_lit.data.augment.config import AugmentConfig
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.training import run_folder


@dataclass(frozen=True)
class Provenance:
    """What ran, with which options, on which hardware.

    Attributes:
        config: The text of `config.yaml`; empty if the run was not started from the command line.
        parts: Command, commit, versions and hardware of the run, then of each time that it was resumed.
        report_command: The command that created the report, if it was not the training itself.
    """

    config: str
    parts: tuple[dict[str, Any], ...]
    report_command: str | None = None

    @classmethod
    def load(cls, run: Path) -> "Provenance":
        """Read `config.yaml` and every `provenance*.json` of a run's folder."""
        return cls(
            (run / "config.yaml").read_text(encoding="utf-8"),
            tuple(json.loads(file.read_text(encoding="utf-8")) for file in run_folder.parts(run, "provenance.json")),
        )

    @property
    def options(self) -> dict[str, Any]:
        """The options of `config.yaml`, nested as there; empty if there is none."""
        return yaml.safe_load(self.config) or {}

    @property
    def hardware(self) -> str:
        """The GPUs, or else the CPU, of the first part."""
        first = self.parts[0]
        return ", ".join(first.get("gpus") or []) or str(first.get("cpu"))

    def override(self, config: str) -> "Provenance":
        """Return the provenance of an evaluation of this run, whose `config.yaml` is given as text."""
        evaluated = yaml.safe_load(config)
        evaluated.get("trainer", {}).pop("callbacks", None)  # only those that are parts of the report
        merged = _override(self.options, evaluated)
        return replace(self, config=yaml.safe_dump(merged, sort_keys=False))


def _override(options: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return nested options with the other ones' values where both have the same name."""
    merged = {name: other.get(name, value) for name, value in options.items()}
    nested = [name for name in other if isinstance(options.get(name), dict) and isinstance(other[name], dict)]
    return merged | {name: _override(options[name], other[name]) for name in nested}


def flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested options to dotted names."""
    if not isinstance(options, dict):
        return {prefix.rstrip("."): options}
    return {key: value for name, part in options.items() for key, value in flat(part, f"{prefix}{name}.").items()}


def data_options(run: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ImageDataModule from a run's options, to be used from any folder."""
    known = {*signature(ImageDataModule).parameters, *(one.name for one in fields(AugmentConfig))}
    data: dict[str, Any] = {k: v for k, v in options["data"].items() if k in known}  # others have been removed since
    if data.get("seed") is None:
        data["seed"] = options["seed_everything"]
    return data | {name: run_folder.data_path(run, data[name]) for name in run_folder.PATHS}
