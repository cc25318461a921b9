"""`results.json`, with the results of each training, and the tables in results.md."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import Training

from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write_text

Record = dict[str, Any]
HIDDEN = ("--data.source", "--data.root", "--data.cache_dir", "--data.mirrors")  # implied by the name of the data
ENVIRONMENT = ("hardware", "precision", "processes", "versions")
SAME_ROW = ("recipe", "change", "epochs", "options", "fingerprints", *ENVIRONMENT)
ORIGINAL, COPY = "CIFAR-10, original pixels", "CIFAR-10, JPEG copy"
SOURCES = {"cifar10": ORIGINAL, "cifar100": "CIFAR-100"}
FOLDERS = {"6fc307836a0f0ac721c077f79a4e781f": ORIGINAL, "d6b6fd0991ba902b351cdfb5045442af": COPY}  # by training images
TEMPLATE = """# Results

<!-- results -->
<!-- /results -->

## Ablations

<!-- ablations -->
<!-- /ablations -->
"""


def record(training: Training, folder: Path, data: str | None) -> Record:
    """Return the results of a finished run.

    Args:
        training: What was trained.
        folder: The run's folder.
        data: Name of the data set; None for the known one of these training images, else that of the source.
    """
    from cifar_lit.cli.arguments import take  # here, because these import Lightning: the first training starts at once
    from cifar_lit.report.results import RunResults

    run = RunResults.load(folder)
    first, options = run.provenance.parts[0], run.provenance.options["data"]
    scores = {
        "test_images": len(run.test),
        "val_accuracy": run.val.accuracy if run.val else None,
        "test_accuracy": run.test.accuracy,
        "test_accuracy_flip_tta": run.test_flip_tta.accuracy if run.test_flip_tta else None,
        "weights": run.weights,
    }
    if training.change:  # ablations must not be selected by test accuracy
        scores = {"val_accuracy": run.epochs[-1].val_accuracy}
    start, end = ((folder / name).stat().st_mtime for name in ("provenance.json", "report/index.html"))
    return {
        "recipe": training.recipe.stem,
        "change": training.change,
        "seed": training.seed,
        "epochs": len(run.epochs),
        "full_epochs": training.full_epochs,
        "command": first["command"],
        "options": " ".join(take(training.options, *HIDDEN)[1]),
        "data": data or FOLDERS.get(run.fingerprints["train"]) or SOURCES.get(options["source"], options["source"]),
        "fingerprints": run.fingerprints,
        "held_out": options["val_size"],
        **scores,
        "parameters": run.parameters,
        "seconds_per_epoch": statistics.median(row.seconds for row in run.epochs),
        "seconds_training": run.seconds,
        # Unknown if the run was interrupted.
        "seconds_total": end - start if len(run.provenance.parts) == 1 else None,
        "hardware": ", ".join(first["gpus"]) or f"{first['cpu']}, {first['threads']} threads",
        "processes": first.get("processes", 1),
        "precision": first["precision"],
        "versions": {name: first[name] for name in ("python", "torch", "torchvision", "pytorch-lightning")},
        "commits": list(dict.fromkeys(str(part["commit"]) for part in run.provenance.parts)),
    }


def add(file: Path, new: Record) -> list[Record]:
    """Add a record to the file, replacing an earlier one of the same training; return all records."""
    records = load(file)
    records = [old for old in records if any(old[key] != new[key] for key in (*SAME_ROW, "seed"))]
    records.append(new)
    records.sort(key=lambda record: (record["recipe"], record["change"], -record["epochs"], record["seed"]))
    atomic_write_text(file, json.dumps(records, indent=1) + "\n")
    return records


def load(file: Path) -> list[Record]:
    """Read all records."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def summary(record: Record) -> str:
    """Return the accuracy of a training as text."""
    if record["change"]:
        return f"validation accuracy {record['val_accuracy']:.2%}"
    flip_tta = record["test_accuracy_flip_tta"]
    return f"test accuracy {record['test_accuracy']:.2%}" + (
        f", with flip TTA {flip_tta:.2%}" if flip_tta is not None else ""
    )


def read_text(file: Path) -> str:
    """Read results.md, or return a template.

    Raises:
        UsageError: The file has no markers for the tables.
    """
    text = file.read_text(encoding="utf-8") if file.exists() else TEMPLATE
    for name in ("results", "ablations"):
        if f"<!-- /{name} -->" not in text.partition(f"<!-- {name} -->\n")[2]:
            raise UsageError(
                f"{file} has no lines <!-- {name} --> and <!-- /{name} --> to put a table between; add them, or give "
                "another folder as --out"
            )
    return text


def write_tables(file: Path, records: Sequence[Record]) -> None:
    """Replace the tables in results.md, and keep everything else."""
    text = read_text(file)
    for name, table in (
        ("results", _results_table([record for record in records if not record["change"]])),
        ("ablations", _ablations_table([record for record in records if record["change"]])),
    ):
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{start}{table}{end}{after}"
    atomic_write_text(file, text)


def _by_row(records: Sequence[Record]) -> list[list[Record]]:
    """Group the records that differ only in the seed."""
    rows: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        rows.setdefault(tuple(str(record[key]) for key in SAME_ROW), []).append(record)
    return list(rows.values())


def _results_table(records: Sequence[Record]) -> str:
    lines = [
        "| no. | recipe | data | validation images | epochs | seeds | validation accuracy | images tested | "
        "test accuracy | with flip TTA | an epoch | a run |",
        f"|{'---|' * 12}",
    ]
    environments = []
    for number, row in enumerate(_by_row(records), 1):
        first = row[0]
        lines.append(
            f"| {number} | {_name(first)} | {first['data']} | {first['held_out']:,} | {_epochs(first)} | {len(row)} | "
            f"{_mean(row, 'val_accuracy')} | {_tested(first)} | "
            f"{_mean(row, 'test_accuracy')}{_interval(row)} | {_mean(row, 'test_accuracy_flip_tta')} | "
            f"{_median(row, 'seconds_per_epoch')} | "
            f"{_median(row, 'seconds_total') or _median(row, 'seconds_training') + ', epochs only'} |"
        )
        processes = f", {first['processes']} processes" if first["processes"] > 1 else ""
        versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
        commits = ", ".join(dict.fromkeys(commit[:7] for record in row for commit in record["commits"]))
        environments.append(
            f"{number}. {first['hardware']}{processes}; {first['precision']}; {versions}; commit {commits}; "
            f"{first['weights'].split(',')[0]}; test images {first['fingerprints']['test']}"
        )
    return "\n".join([*lines, "", *environments, ""]) + "\n" if records else ""


def _ablations_table(records: Sequence[Record]) -> str:
    lines = [
        "| recipe | change | data | epochs | seeds | validation accuracy | hardware |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in _by_row(records):
        first = row[0]
        lines.append(
            f"| {_name(first)} | {first['change']} | {first['data']} | {_epochs(first)} | {len(row)} | "
            f"{_mean(row, 'val_accuracy')} | {first['hardware']} |"
        )
    return "\n".join(lines) + "\n" if records else ""


def _name(record: Record) -> str:
    options = f" `{record['options']}`" if record["options"] and not record["change"] else ""
    return f"`{record['recipe']}`{options}"


def _epochs(record: Record) -> str:
    epochs, full = record["epochs"], record["full_epochs"]
    return str(epochs) if epochs == full else f"**{epochs} of {full}**"


def _mean(row: Sequence[Record], key: str) -> str:
    """Return mean and standard deviation over the seeds, in percent; a dash if they are unknown."""
    values = [100 * value for record in row if (value := record.get(key)) is not None]
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}%" if values else "-"


def _tested(record: Record) -> str:
    """Return the number of images tested, which earlier versions did not record."""
    return f"{record['test_images']:,}" if "test_images" in record else "-"


def _interval(row: Sequence[Record]) -> str:
    """Return the 95% interval of the test accuracy of a single seed, in percent; empty for several, or if unknown."""
    from cifar_lit.analysis.scores import accuracy_interval  # here: it imports torch

    if len(row) > 1 or "test_images" not in row[0]:
        return ""
    total = row[0]["test_images"]
    low, high = accuracy_interval(round(row[0]["test_accuracy"] * total), total)
    return f" ({100 * low:.2f} to {100 * high:.2f})"


def _median(row: Sequence[Record], key: str) -> str:
    """Return the median over the seeds as text; empty if unknown."""
    values = [record[key] for record in row if record[key] is not None]
    if not values:
        return ""
    seconds = statistics.median(values)
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
