"""One training: whether it was done already, how to go on with it, and doing it."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cifar_lit.report.comparison import Run, flat, read
from cifar_lit.training import run_folder as runs
from cifar_lit.utils.errors import Interrupted

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Training:
    """A recipe with a seed.

    Args:
        recipe: Its file.
        seed: For everything that is random.
        epochs: In place of the recipe's own; None for those.
        options: Further ones of `python -m cifar_lit.fit`.
        change: What is tried on the recipe, in words; empty for the recipe as it is.
    """

    recipe: Path
    seed: int
    epochs: int | None = None
    options: tuple[str, ...] = ()
    change: str = ""

    @property
    def args(self) -> list[str]:
        """The command line."""
        shortened = [] if self.epochs is None else ["--trainer.max_epochs", str(self.epochs)]
        recipe = os.path.relpath(self.recipe)
        return ["--config", recipe, "--seed_everything", str(self.seed), *shortened, *self.options]

    @property
    def settings(self) -> dict[str, Any]:
        """What the recipe's file says, flattened to dotted names, without what the command line changes."""
        changed = tuple(arg.removeprefix("--").split("=")[0] for arg in self.args if arg.startswith("--"))
        return {
            name: value
            for name, value in flat(self._recipe, lists=True).items()
            if not any(name == one or name.startswith(f"{one}.") for one in changed)
        }

    @property
    def full_epochs(self) -> int:
        """How many epochs the recipe has."""
        epochs: int = self._recipe["trainer"]["max_epochs"]
        return epochs

    @property
    def _recipe(self) -> Any:
        return yaml.safe_load(self.recipe.read_text(encoding="utf-8"))

    def begun(self) -> Path | None:
        """Return the newest run of this very command with the recipe as it is now, finished or not."""
        command = " ".join(["python -m cifar_lit.fit", *self.args])
        for run in reversed(runs.versions(Path("lightning_logs") / self.recipe.stem)):
            try:
                notes = yaml.safe_load((run / "provenance.json").read_text(encoding="utf-8"))
                config = flat(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")), lists=True)
            except OSError:  # stopped before it began, or another one's that begins right now
                continue
            if notes["command"] == command and self.settings.items() <= config.items():
                return run
        return None

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return ", ".join([self.recipe.stem, *([self.change] if self.change else []), f"seed {self.seed}"])

    def train(self, begun: Path | None) -> int:
        """Train, or go on with a run; return the exit code."""
        going_on = ["--ckpt_path", str(begun)] if begun else []
        command = [sys.executable, "-m", "cifar_lit.fit", *self.args, *going_on]
        print(f"\n== {shlex.join(['python', *command[1:]])}", flush=True)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # In a session of its own, or the terminal's Ctrl-C would reach it a second time, which means at once.
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, start_new_session=True)
        try:
            return process.wait()
        except Interrupted as stop:
            process.send_signal(stop.signum)
            process.wait()
            raise Interrupted(stop.signum, "what is done is kept, and the same command goes on") from None


def finished(run: Path | None) -> Run | None:
    """Read a run if its report is complete."""
    # The page is what is written last.
    if run and (run / "report" / "index.html").exists() and not (run / "report" / "problems.txt").exists():
        return read(str(run))
    return None
