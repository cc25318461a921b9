"""One training of a recipe: find its run, resume it, or start it."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cifar_lit.utils.signals import Interrupted

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Training:
    """A recipe and a seed.

    Args:
        recipe: YAML file.
        seed: Seed of everything random.
        epochs: Number of epochs; None for the recipe's own.
        options: Further options of `python -m cifar_lit.fit`.
        change: Name of the ablation; empty for the recipe itself.
    """

    recipe: Path
    seed: int
    epochs: int | None = None
    options: tuple[str, ...] = ()
    change: str = ""

    @property
    def name(self) -> str:
        """Recipe, ablation and seed."""
        return ", ".join([self.recipe.stem, *([self.change] if self.change else []), f"seed {self.seed}"])

    @property
    def args(self) -> list[str]:
        """Command-line arguments of `cifar_lit.fit`."""
        epochs = [] if self.epochs is None else ["--trainer.max_epochs", str(self.epochs)]
        return ["--config", os.path.relpath(self.recipe), "--seed_everything", str(self.seed), *epochs, *self.options]

    @property
    def full_epochs(self) -> int:
        """Number of epochs in the recipe."""
        epochs: int = self._recipe["trainer"]["max_epochs"]
        return epochs

    @property
    def _recipe(self) -> Any:
        return yaml.safe_load(self.recipe.read_text(encoding="utf-8"))

    def run(self) -> Path | None:
        """Return the newest run of this command, finished or not; None if the recipe has changed since."""
        command = shlex.join(["python", "-m", "cifar_lit.fit", *self.args])
        overridden = tuple(arg.removeprefix("--").split("=")[0] for arg in self.args if arg.startswith("--"))
        settings = {
            name: value
            for name, value in _flatten(self._recipe).items()
            if not any(name == option or name.startswith(f"{option}.") for option in overridden)
        }
        runs = (Path("lightning_logs") / self.recipe.stem).glob("version_*")
        versions = {int(number): run for run in runs if (number := run.name.removeprefix("version_")).isdecimal()}
        for _, run in sorted(versions.items(), reverse=True):
            try:
                provenance = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
                config = _flatten(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
            except OSError:  # interrupted before it started, or about to start in another process
                continue
            if provenance["command"] == command and settings.items() <= config.items():
                return run
        return None

    def finished_run(self) -> Path | None:
        """Return the newest run of this command if its report is complete."""
        run = self.run()
        if run and (run / "report" / "index.html").exists() and not (run / "report" / "failures.txt").exists():
            return run
        return None

    def train(self) -> int:
        """Train, or resume an interrupted run; return the exit code."""
        run = self.run()
        command = [sys.executable, "-m", "cifar_lit.fit", *self.args, *(["--ckpt_path", str(run)] if run else [])]
        print(f"\n== {shlex.join(['python', *command[1:]])}", flush=True)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # In its own session: otherwise Ctrl-C would reach it twice, which ends it without saving.
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, start_new_session=True)
        try:
            return process.wait()
        except Interrupted as stop:
            process.send_signal(stop.signum)
            process.wait()
            advice = "finished runs are kept, and the same command resumes the interrupted one"
            raise Interrupted(stop.signum, advice) from None


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries and lists to dotted names."""
    if isinstance(config, list):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return {prefix.rstrip("."): config}
    return {key: value for name, part in config.items() for key, value in _flatten(part, f"{prefix}{name}.").items()}
