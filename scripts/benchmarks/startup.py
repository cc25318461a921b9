"""Time from the start of a command to its first message, and to the first training step."""

from harness import ROOT, Row, Settings, alternate, python, slower_by

FIRST_STEP = """
import os, sys
from cifar_lit.models import classifier
classifier.ImageClassifier.training_step = lambda *args: os._exit(7)
from cifar_lit.fit import main
main(sys.argv[1:])
"""


def measure(settings: Settings) -> list[Row]:
    """Start processes of each kind in turn."""
    demo = ("--config", str(ROOT / "configs" / "demo.yaml"), "--data.num_workers", "0")

    def start(*args: str, exit_code: int = 0) -> None:
        python(*args, cwd=settings.scratch, exit_code=exit_code)

    times = alternate(
        0 if settings.quick else 2,
        lightning=lambda: start("-c", "import pytorch_lightning"),
        help=lambda: start("-m", "cifar_lit.fit", "--help"),
        misspelled=lambda: start("-m", "cifar_lit.fit", "--trainer.max_epoch", "3", exit_code=2),
        first=lambda: start("-c", FIRST_STEP, *demo, exit_code=7),
    )
    lightning, against = times["lightning"], "import pytorch_lightning"
    return [
        slower_by("startup", "--help", times["help"], lightning, against, 1, 0),
        slower_by("startup", "error message for a misspelled option", times["misspelled"], lightning, against, 1, 0),
        slower_by("startup", "command to first training step", times["first"], lightning, against, 4, 2),
    ]
