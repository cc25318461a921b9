"""Starting up: how long until the first answer, or the first training step."""

import os
import subprocess
import sys

from harness import ROOT, Row, Settings, alternate, slower_by

FIRST_STEP = """
import os, sys
from cifar_lit.models import classifier as module
module.ImageClassifier.training_step = lambda *args: os._exit(7)
from cifar_lit.fit import main
main(sys.argv[1:])
"""


def measure(settings: Settings) -> list[Row]:
    """Start processes of each kind in turn."""
    cached = ["--config", str(ROOT / "configs" / "demo.yaml"), "--data.num_workers", "0"]

    def start(*command: str, code: int) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *command], env=env, cwd=settings.scratch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert done.returncode == code, done.stderr.decode()

    times = alternate(
        0 if settings.quick else 2,
        lightning=lambda: start("-c", "import pytorch_lightning", code=0),
        help=lambda: start("-m", "cifar_lit.fit", "--help", code=0),
        misspelt=lambda: start("-m", "cifar_lit.fit", "--trainer.max_epoch", "3", code=2),
        first=lambda: start("-c", FIRST_STEP, *cached, code=7),
    )
    against = "import pytorch_lightning"
    return [
        slower_by("start", "--help", times["help"], times["lightning"], against, 1, 0),
        slower_by("start", "a misspelt option to its message", times["misspelt"], times["lightning"], against, 1, 0),
        slower_by("start", "command to first training step", times["first"], times["lightning"], against, 4, 2),
    ]
