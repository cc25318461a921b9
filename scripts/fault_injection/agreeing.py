"""Do the same with several processes: the figures and the errors must not tell how many there were."""

import csv
import shutil
from pathlib import Path

import zygote
from harness import Row, Settings
from resuming import LIMIT, SMALL, TIMING, differences, fingerprint, newest

NOISE = 1e-4  # relative, of losses after 21 steps in float32


def measure(settings: Settings) -> list[Row]:
    """Compare reports, then trainings."""
    rows = [_reports(settings), *_trainings(settings)]
    for row in rows:
        settings.tell(row)
    return rows


def _reports(settings: Settings) -> Row:
    """Make the report of one checkpoint with 1, 2 and 3 processes; the sizes are no multiples of anything."""
    args = [*SMALL, "--trainer.max_epochs", "1", "--trainer.limit_test_batches", "0.97"]
    one = settings.scratch / "1"
    found = []
    for processes in (1, 2, 3):
        folder = settings.scratch / str(processes)
        if processes > 1:
            shutil.copytree(one, folder)
        run = zygote.run([*args, *(["--ckpt_path", "last"] if processes > 1 else [])], folder, processes)
        assert run.wait(LIMIT) == 0, run.said
        found.append(fingerprint(newest(folder)))
    names = ("misclassified.csv", "predictions.csv")
    wrong = [f"{name} of {n}" for n, other in enumerate(found, 1) for name in names if other[name] != found[0][name]]
    what = "the report of one checkpoint, 349 test images"
    return Row("agreeing", what, "1, 2 and 3 processes", "; ".join(wrong) or "the same", not wrong)


def _trainings(settings: Settings) -> list[Row]:
    """Train with one process of 16 images a step, two of 8, and two machines of 8."""
    layer = [*SMALL, "--model.norm", "layer", "--data.batch_size"]  # BatchNorm looks at each process's part alone
    one, two, machines = (settings.scratch / name for name in ("one", "two", "machines"))
    for run in (
        zygote.run([*layer, "16"], one),
        zygote.run([*layer, "8"], two, 2),
        zygote.run([*layer, "8"], machines, 2, machines=True),
    ):
        assert run.wait(LIMIT) == 0, run.said
    differ = max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(_losses(one), _losses(two), strict=True))
    wrong = differences(two, machines)
    return [
        Row(
            "agreeing",
            "three epochs, LayerNorm",
            "1 process of 16 images a step, 2 of 8",
            f"losses differ by {differ:.1e} at most, noise is below {NOISE:.0e}",
            differ < NOISE,
        ),
        Row(
            "agreeing",
            "the same",
            "2 processes on one machine, on two that share no disk",
            "; ".join(wrong) or "the same",
            not wrong,
        ),
    ]


def _losses(folder: Path) -> list[float]:
    with open(newest(folder) / "report" / "history.csv", newline="", encoding="utf-8") as file:
        return [
            float(v) for row in csv.DictReader(file) for k, v in row.items() if k.endswith("/loss") and k not in TIMING
        ]
