"""Runs side by side: what they reach, what differs in them, and whose errors the other one makes too."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cifar_lit.analysis.predictions import Predictions, read_csv
from cifar_lit.data.sources import SourceOptions, load
from cifar_lit.report.html import render, thumbnail
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write_text
from cifar_lit.utils.folders import new_folder

SHOWN = 500  # images of each kind on the page
REMEDY = "make it again with python -m cifar_lit.evaluate --ckpt_path RUN, and give the folder that this writes"


@dataclass(frozen=True)
class Run:
    """What a finished run left behind.

    Attributes:
        name: Its recipe and version.
        metrics: `metrics.json`.
        predictions: What it says about the test images.
        classes: The class names.
        config: `config.yaml`, flattened to dotted names.
        notes: `provenance.json`.
        history: A row of figures for each epoch.
    """

    name: str
    metrics: dict[str, Any]
    predictions: Predictions
    classes: tuple[str, ...]
    config: dict[str, Any]
    notes: dict[str, Any]
    history: list[dict[str, float]]

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Time of all epochs."""
        return sum(row["seconds"] for row in self.history)


def read(folder: str) -> Run:
    """Read a run's folder with the report that its training left, or another report in it, such as `evaluation_1`.

    Raises:
        UsageError: It is none, or its report is missing or from an older version.
    """
    given = Path(folder)
    if not given.is_dir():
        raise UsageError(f"{folder}: there is no such folder; give lightning_logs/RECIPE/version_N")
    other = (given / "metrics.json").exists()  # a report; a run's folder has config.yaml
    run, report = (given.absolute().parent, given) if other else (given, given / "report")
    try:
        metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
        _ = metrics["fingerprints"], metrics["parameters"]
        predictions, classes = read_csv(report / "predictions.csv")
        config = flat(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
        if other and (given / "config.yaml").exists():  # an evaluation's, perhaps on other images
            evaluated = flat(yaml.safe_load((given / "config.yaml").read_text(encoding="utf-8")))
            config |= {name: value for name, value in evaluated.items() if name.startswith("data.")}
        notes = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
        history: list[dict[str, float]] = []
        if (report / "history.csv").exists():
            with open(report / "history.csv", newline="", encoding="utf-8") as file:
                history = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        reason = f"{getattr(error, 'filename', None) or report}: {getattr(error, 'strerror', None) or error}"
        if isinstance(error, KeyError):
            reason = f"{report / 'metrics.json'} has no {error}, so an older version wrote it"
        remedy = (
            REMEDY if any(run.glob("checkpoints/*.ckpt")) else "it has no checkpoints to make it from; give another"
        )
        raise UsageError(f"{folder} has no complete report ({reason}); {remedy}") from None
    absolute = run.resolve()
    name = f"{absolute.parent.name}/{absolute.name}" + (f"/{given.name}" if other and given.name != "report" else "")
    return Run(name, metrics, predictions, classes, config, notes, history)


def flat(config: Any, lists: bool = False, prefix: str = "") -> dict[str, Any]:
    """Flatten a configuration to dotted names, lists too if asked to."""
    if lists and isinstance(config, list):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return {prefix.rstrip("."): config}
    return {key: value for name, part in config.items() for key, value in flat(part, lists, f"{prefix}{name}.").items()}


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that were tested on different images."""
    first = runs[0]
    for other in runs[1:]:
        if other.classes != first.classes:
            ours, theirs = ", ".join(first.classes[:10]), ", ".join(other.classes[:10])
            problem = f"they tell different classes apart ({ours} and {theirs})"
        elif other.metrics["fingerprints"]["test"] != first.metrics["fingerprints"]["test"]:
            fingerprints = [run.metrics["fingerprints"]["test"] for run in (first, other)]
            problem = f"they were tested on different images (fingerprints {fingerprints[0]} and {fingerprints[1]})"
            sizes = [run.config.get("data.image_size") for run in (first, other)]
            if sizes[0] != sizes[1]:
                problem = f"they saw the test images at different sizes (data.image_size {sizes[0]} and {sizes[1]})"
        elif not np.array_equal(other.predictions.indices, first.predictions.indices):
            problem = (
                f"they were tested on different parts of the test set ({len(first.predictions)} and "
                f"{len(other.predictions)} images; trainer.limit_test_batches)"
            )
        else:
            continue
        raise UsageError(f"{first.name} and {other.name} cannot be compared: {problem}; compare runs on the same data")


def table(runs: Sequence[Run]) -> list[list[str]]:
    """Return the figures of each run as text, a row a figure, its name first."""

    def row(name: str, *texts: str) -> list[str]:
        return [name, *texts]

    test = [run.metrics["test"] for run in runs]
    flipped = [run.metrics.get("test_flip_tta") for run in runs]
    return [
        row("run", *(run.name for run in runs)),
        row("test accuracy", *(f"{one['accuracy']:.2%}" for one in test)),
        row("95 % interval", *("{:.2%} to {:.2%}".format(*one["accuracy_interval_95"]) for one in test)),
        *(
            [row("flip TTA", *(f"{one['accuracy']:.2%}" if one else "(none)" for one in flipped))]
            if any(flipped)
            else []
        ),
        row("test loss", *(f"{one['loss']:.3f}" for one in test)),
        row("calibration error", *(f"{one['calibration_error']:.1%}" for one in test)),
        row("train accuracy", *(f"{run.metrics['train']['accuracy']:.2%}" for run in runs)),
        row("weights", *(run.metrics["weights"] for run in runs)),
        row("parameters", *(f"{run.metrics['parameters']:,}" for run in runs)),
        row("epochs", *(str(run.epochs) for run in runs)),
        row("training time", *(f"{run.seconds:,.0f} s" for run in runs)),
        row("hardware", *(", ".join(run.notes.get("gpus") or []) or str(run.notes.get("cpu")) for run in runs)),
        row("commit", *(str(run.notes.get("commit"))[:12] for run in runs)),
    ]


def differences(runs: Sequence[Run]) -> list[list[str]]:
    """Return the options that differ as text, a row an option, its name first."""
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    return [
        [name, *("(none)" if name not in run.config else _short(run.config[name]) for run in runs)]
        for name in names
        if len({str(run.config.get(name)) for run in runs}) > 1
    ]


def _short(value: Any) -> str:
    """Return an option's value as text, classes as calls of their names."""
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    if isinstance(value, dict) and "class_path" in value:
        given = {name: one for name, one in (value.get("init_args") or {}).items() if one is not None}
        arguments = ", ".join(f"{name}={_short(one)}" for name, one in given.items())
        return f"{value['class_path'].rpartition('.')[2]}({arguments})"
    return str(value)


@dataclass(frozen=True)
class Changes:
    """From one run's errors to another's, as rows of their predictions, the most wrong first.

    Attributes:
        fixed: Wrong in the first run, right in the second; by the first run's loss.
        new: Right in the first, wrong in the second; by the second run's loss.
        stay: Wrong in both; by the second run's loss.
        p_value: Of the exact McNemar test that both are wrong equally often.
    """

    fixed: NDArray[np.int64]
    new: NDArray[np.int64]
    stay: NDArray[np.int64]
    p_value: float


def changes(one: Predictions, other: Predictions) -> Changes:
    """Compare two sets of predictions for the same images (McNemar 1947; exact, by the binomial distribution)."""
    from scipy.stats import binomtest

    before, after = one.errors, other.errors  # the most wrong first
    still = np.isin(after, before)
    fixed, new, stay = before[~np.isin(before, after)], after[~still], after[still]
    changed = len(fixed) + len(new)
    p_value = float(binomtest(len(new), changed).pvalue) if changed else 1.0
    return Changes(fixed, new, stay, p_value)


def run(folders: Sequence[str], out: str | None) -> None:
    """Compare, print the table, write `compare.json` and `compare.html`."""
    if len(folders) < 2:
        raise UsageError("give at least two runs to compare")
    runs = [read(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):  # of several places
        runs = [replace(run, name=folder) for run, folder in zip(runs, folders, strict=True)]
    check_comparable(runs)
    folder = new_folder(out, "compare")
    rows, differ = table(runs), differences(runs)
    content: dict[str, Any] = {
        "runs": [
            {"name": run.name, "epochs": run.epochs, "seconds": run.seconds, "notes": run.notes, **run.metrics}
            for run in runs
        ],
        "differences": {name: values for name, *values in differ},
    }
    print(_aligned([*rows, ["", *[""] * len(runs)], *differ]))
    between = None
    if len(runs) == 2:
        found = changes(runs[0].predictions, runs[1].predictions)
        indices = runs[0].predictions.indices
        kinds = {"fixed": found.fixed, "new": found.new, "stay": found.stay}
        content["errors"] = {kind: indices[part].tolist() for kind, part in kinds.items()}
        content["mcnemar_p_value"] = found.p_value
        print(f"\nerrors: {', '.join(f'{len(part)} {kind}' for kind, part in kinds.items())}; {_verdict(found)}")
        between = {"verdict": _verdict(found), "kinds": _images(runs, kinds)}
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "compare.json", json.dumps(content, indent=2) + "\n")
    html = render("compare.html", rows=rows, differences=differ, between=between, shown=SHOWN)
    atomic_write_text(folder / "compare.html", html)
    print(f"written: {folder / 'compare.html'}")


def _verdict(found: Changes) -> str:
    if not len(found.fixed) + len(found.new):
        return "there is no difference"
    chance = "could well be chance" if found.p_value >= 0.05 else "is hardly chance"
    return f"the difference {chance} (exact McNemar test, p = {found.p_value:.2g})"


def _images(runs: Sequence[Run], kinds: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
    """Collect what the page shows of each kind, from the first run's data."""
    names = ("source", "root", "image_size", "mirrors", "cache_dir")
    options: dict[str, Any] = {name: runs[0].config.get(f"data.{name}") for name in names}
    options["mirrors"] = options["mirrors"] or []
    images = load(options.pop("source"), SourceOptions(**options))
    if images.test.fingerprint != runs[0].metrics["fingerprints"]["test"]:
        raise UsageError(f"data.root={options['root']}: the test images there are no longer those of {runs[0].name}")
    one, other = (run.predictions for run in runs)
    classes = runs[0].classes
    return {
        kind: {
            "count": len(rows),
            "items": [
                {
                    "index": int(one.indices[row]),
                    "true": classes[one.labels[row]],
                    "before": f"{classes[one.predicted[row]]} {one.confidence[row]:.0%}",
                    "after": f"{classes[other.predicted[row]]} {other.confidence[row]:.0%}",
                    "image": thumbnail(images.test.images[one.indices[row]]),
                }
                for row in rows[:SHOWN]
            ],
        }
        for kind, rows in kinds.items()
    }


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
