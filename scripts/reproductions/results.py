"""`results.json`, what each training reached, and the tables that RESULTS.md makes of it."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import Training

from cifar_lit.cli.arguments import without
from cifar_lit.report.comparison import Run
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write_text

Record = dict[str, Any]
NEVER_SHOWN = ("--data.source", "--data.root", "--data.cache_dir", "--data.mirrors")  # the name of the data tells
WHERE = ("hardware", "precision", "processes", "versions")
SAME_ROW = ("recipe", "change", "epochs", "options", "data", "fingerprints", *WHERE)
SOURCES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
MARKS = ("results", "tried")  # where the tables go
HEAD = "# Results\n\n<!-- results -->\n<!-- /results -->\n\n## What was tried\n\n<!-- tried -->\n<!-- /tried -->\n"


def record(training: Training, run: Run, folder: Path, data: str | None) -> Record:
    """Return what is kept of a finished training.

    Args:
        training: What was asked for.
        run: What it left.
        folder: Its folder.
        data: What the images are called; None for the name of their source.
    """
    begun, done = folder / "provenance.json", folder / "report" / "index.html"
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("provenance*.json"))]
    notes = run.notes
    reached = {
        "test_accuracy": run.metrics["test"]["accuracy"],
        "test_accuracy_flip_tta": run.metrics.get("test_flip_tta", {}).get("accuracy"),
        "weights": run.metrics["weights"],
    }
    if training.change:  # what is tried is judged on the validation images: nobody need know the rest
        reached = {"val_accuracy": run.history[-1]["val/accuracy"]}
    return {
        "recipe": training.recipe.stem,
        "change": training.change,
        "seed": training.seed,
        "epochs": run.epochs,
        "full_epochs": training.full_epochs,
        "command": notes["command"],
        "options": " ".join(without(training.options, *NEVER_SHOWN)),
        "data": data or SOURCES.get(run.config["data.source"], run.config["data.source"]),
        "fingerprints": run.metrics["fingerprints"],
        "held_out": run.config["data.val_size"],
        **reached,
        "parameters": run.metrics["parameters"],
        "seconds_per_epoch": statistics.median(row["seconds"] for row in run.history),
        "seconds_of_training": run.seconds,
        # When it began and when its page was written; what lies between is not all work if it was gone on with.
        "seconds_in_all": done.stat().st_mtime - begun.stat().st_mtime if len(parts) == 1 else None,
        "hardware": ", ".join(notes["gpus"]) or f"{notes['cpu']}, {notes['threads']} threads",
        "processes": notes.get("processes", 1),
        "precision": notes["precision"],
        "versions": {name: notes[name] for name in ("python", "torch", "torchvision", "pytorch-lightning")},
        "commits": list(dict.fromkeys(str(one["commit"]) for one in parts)),
    }


def keep(file: Path, new: Record) -> list[Record]:
    """Put a record in place of the one of the same training, if there is one, and return all."""
    records = load(file)
    same = (*SAME_ROW, "seed")
    records = [one for one in records if any(one[key] != new[key] for key in same)]
    records.append(new)
    records.sort(key=lambda one: (one["recipe"], one["change"], -one["epochs"], one["seed"]))
    atomic_write_text(file, json.dumps(records, indent=1) + "\n")
    return records


def tell(one: Record) -> str:
    """Return what a training reached, in a few words."""
    if one["change"]:
        return f"validation accuracy {one['val_accuracy']:.2%}"
    averaged = one["test_accuracy_flip_tta"]
    return f"test accuracy {one['test_accuracy']:.2%}" + (
        f", with flip TTA {averaged:.2%}" if averaged is not None else ""
    )


def load(file: Path) -> list[Record]:
    """Read all records."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def text_of(file: Path) -> str:
    """Read RESULTS.md, or begin it.

    Raises:
        UsageError: It has no place for the tables.
    """
    text = file.read_text(encoding="utf-8") if file.exists() else HEAD
    for mark in MARKS:
        if f"<!-- /{mark} -->" not in text.partition(f"<!-- {mark} -->\n")[2]:
            raise UsageError(
                f"{file} has no lines <!-- {mark} --> and <!-- /{mark} --> to put a table between; add them, or give "
                "another folder as --out"
            )
    return text


def write(file: Path, records: Sequence[Record]) -> None:
    """Put the tables between the marks of RESULTS.md; what stands around them stays."""
    text = text_of(file)
    results, tried = MARKS
    for mark, table in (
        (results, _results([one for one in records if not one["change"]])),
        (tried, _tried([one for one in records if one["change"]])),
    ):
        before, _, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- /{mark} -->")
        text = f"{before}<!-- {mark} -->\n{table}{end}{after}"
    atomic_write_text(file, text)


def _rows(records: Sequence[Record]) -> list[list[Record]]:
    """Put together what differs in the seed only."""
    rows: dict[tuple[Any, ...], list[Record]] = {}
    for one in records:
        rows.setdefault(tuple(str(one[key]) for key in SAME_ROW), []).append(one)
    return list(rows.values())


def _results(records: Sequence[Record]) -> str:
    lines = [
        "| no. | recipe | data | held out | epochs | seeds | test accuracy | with flip TTA | an epoch | a run |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    where = []
    for number, row in enumerate(_rows(records), 1):
        one = row[0]
        lines.append(
            f"| {number} | {_name(one)} | {one['data']} | {one['held_out']:,} | "
            f"{_epochs(one)} | {len(row)} | "
            f"{_mean(row, 'test_accuracy')} | {_mean(row, 'test_accuracy_flip_tta')} | "
            f"{_time(row, 'seconds_per_epoch')} | "
            f"{_time(row, 'seconds_in_all') or _time(row, 'seconds_of_training') + ', epochs alone'} |"
        )
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        commits = ", ".join(dict.fromkeys(commit[:7] for each in row for commit in each["commits"]))
        where.append(
            f"{number}. {one['hardware']}"
            + (f", {one['processes']} processes" if one["processes"] > 1 else "")
            + f"; {one['precision']}; {versions}; commit {commits}; {one['weights'].split(',')[0]}; test images "
            f"{one['fingerprints']['test']}"
        )
    return "\n".join([*lines, "", *where, ""]) + "\n" if records else ""


def _tried(records: Sequence[Record]) -> str:
    lines = [
        "| recipe | change | data | epochs | seeds | validation accuracy | hardware |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in _rows(records):
        one = row[0]
        lines.append(
            f"| {_name(one)} | {one['change']} | {one['data']} | {_epochs(one)} | {len(row)} | "
            f"{_mean(row, 'val_accuracy')} | {one['hardware']} |"
        )
    return "\n".join(lines) + "\n" if records else ""


def _name(one: Record) -> str:
    return f"`{one['recipe']}`" + (f" `{one['options']}`" if one["options"] and not one["change"] else "")


def _epochs(one: Record) -> str:
    if one["epochs"] == one["full_epochs"]:
        return str(one["epochs"])
    return f"**{one['epochs']} of {one['full_epochs']}**"


def _mean(row: Sequence[Record], key: str) -> str:
    """Return mean and standard deviation over the seeds, in percent."""
    values = [100 * one[key] for one in row if one[key] is not None]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} %" if values else "not asked for"


def _time(row: Sequence[Record], key: str) -> str:
    """Return the median over the seeds; nothing where it is not known."""
    values = [one[key] for one in row if one[key] is not None]
    if not values:
        return ""
    seconds = statistics.median(values)
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
