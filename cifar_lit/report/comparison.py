"""Runs side by side: their scores, the options that differ, and which errors they have in common."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis import scores
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.report import evidence_figures, evidence_text, tables
from cifar_lit.report.html import render
from cifar_lit.report.inline import thumbnail
from cifar_lit.report.provenance import flat
from cifar_lit.report.results import RunResults
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write_text, new_folder

MAX_SHOWN = 500  # images of each kind on the page


@dataclass(frozen=True)
class Changes:
    """From the errors of one run to those of another, as rows of their predictions.

    Attributes:
        fixed: Misclassified by the first run only, the highest loss of it first.
        new: Misclassified by the second run only, the highest loss of it first.
        stay: Misclassified by both, the highest loss of the second first.
        p_value: Of the exact McNemar test; the null hypothesis is that both have the same error rate.
    """

    fixed: NDArray[np.int64]
    new: NDArray[np.int64]
    stay: NDArray[np.int64]
    p_value: float

    @property
    def verdict(self) -> str:
        """The result of the test in words."""
        if not len(self.fixed) + len(self.new):
            return "there is no difference"
        chance = "is not significant" if self.p_value >= 0.05 else "is significant"
        return f"the difference {chance} (exact McNemar test, p = {self.p_value:.2g})"


@dataclass(frozen=True)
class ChangedImages:
    """The images of a kind of change, for the page.

    Attributes:
        heading: What the kind is.
        count: Number of images, also of those that are not shown.
        items: Index, true class, both predictions and the image of each one shown.
    """

    heading: str
    count: int
    items: list[dict[str, Any]]


def compare(paths: Sequence[str], out: str | None) -> None:
    """Compare runs: print the table, write `compare.json` and `compare.html`.

    Raises:
        UsageError: A run has no report, or the runs were tested on different images.
    """
    if len(paths) < 2:
        raise UsageError("at least two runs are required")
    runs = [RunResults.load(path) for path in paths]
    if len({run.name for run in runs}) < len(runs):  # from several places
        runs = [replace(run, name=path) for run, path in zip(runs, paths, strict=True)]
    check_comparable(runs)
    folder = new_folder(out, "compare")
    rows, differ = score_table(runs), differences(runs)
    content: dict[str, Any] = {
        "runs": [
            {
                "name": run.name,
                "epochs": len(run.epochs),
                "seconds": run.seconds,
                "provenance": run.provenance.parts[0],
                **tables.metrics(run),
                "evidence": {"layer": run.evidence.layer}
                | {name: asdict(value) for name, value in evidence_text.scores(run.evidence).items()},
            }
            for run in runs
        ],
        "differences": {name: values for name, *values in differ},
    }
    evidence = evidence_text.table(runs)
    empty = ["", *[""] * len(runs)]
    print(_aligned([*rows, empty, *evidence, *([empty] if evidence else []), *differ]))
    found, images = None, None
    if len(runs) == 2:
        found = changes(runs[0].test, runs[1].test)
        kinds = {"fixed": found.fixed, "new": found.new, "stay": found.stay}
        content["errors"] = {kind: runs[0].test.indices[part].tolist() for kind, part in kinds.items()}
        content["mcnemar_p_value"] = found.p_value
        print(f"\nerrors: {', '.join(f'{len(part)} {kind}' for kind, part in kinds.items())}; {found.verdict}")
        images = changed_images(runs[0], runs[1], found)
    atomic_write_text(folder / "compare.json", json.dumps(content, indent=2) + "\n")
    page = render(
        "compare.html",
        rows=rows,
        evidence=evidence,
        figures=evidence_figures.drawings(runs),
        differences=differ,
        found=found,
        changed=images,
        max_shown=MAX_SHOWN,
    )
    atomic_write_text(folder / "compare.html", page)
    print(f"written: {folder / 'compare.html'}")


def check_comparable(runs: Sequence[RunResults]) -> None:
    """Raise UsageError for runs that were tested on different images."""
    first = runs[0]
    for other in runs[1:]:
        if other.classes != first.classes:
            ours, theirs = ", ".join(first.classes[:10]), ", ".join(other.classes[:10])
            problem = f"they have different classes ({ours} and {theirs})"
        elif other.data.image_size != first.data.image_size:
            sizes = f"data.image_size {first.data.image_size} and {other.data.image_size}"
            problem = f"they saw the test images at different sizes ({sizes})"
        elif other.fingerprints["test"] != first.fingerprints["test"]:
            hashes = f"fingerprints {first.fingerprints['test']} and {other.fingerprints['test']}"
            problem = f"they were tested on different images ({hashes})"
        elif not np.array_equal(other.test.indices, first.test.indices):
            problem = (
                f"they were tested on different parts of the test set ({len(first.test)} and {len(other.test)} "
                "images; trainer.limit_test_batches)"
            )
        else:
            continue
        raise UsageError(f"{first.name} and {other.name} cannot be compared: {problem}; compare runs on the same data")


def score_table(runs: Sequence[RunResults]) -> list[list[str]]:
    """Return the scores of each run as text, one row each, its name first."""
    test = [scores.summary(run.test) for run in runs]
    rows: dict[str, list[str]] = {
        "run": [run.name for run in runs],
        "test accuracy": [f"{split['accuracy']:.2%}" for split in test],
        "95% interval": ["{:.2%} to {:.2%}".format(*split["accuracy_interval_95"]) for split in test],
    }
    if any(run.test_flip_tta for run in runs):
        rows["with flip TTA"] = [f"{run.test_flip_tta.accuracy:.2%}" if run.test_flip_tta else "(none)" for run in runs]
    rows |= {
        "test loss": [f"{split['loss']:.3f}" for split in test],
        "calibration error": [f"{split['calibration_error']:.1%}" for split in test],
        **tables.confidence_and_duplicates(runs),
        "train accuracy": [f"{run.train.accuracy:.2%}" if run.train else "(none)" for run in runs],
        "weights": [run.weights for run in runs],
        "parameters": [f"{run.parameters:,}" for run in runs],
        "epochs": [str(len(run.epochs)) for run in runs],
        "training time": [f"{run.seconds:,.0f} s" for run in runs],
        "hardware": [run.provenance.hardware for run in runs],
        "commit": [str(run.provenance.parts[0].get("commit") or "(none)")[:12] for run in runs],
    }
    return [[name, *cells] for name, cells in rows.items()]


def differences(runs: Sequence[RunResults]) -> list[list[str]]:
    """Return the options that differ as text, one row each, its name first."""
    options = [flat(run.provenance.options) for run in runs]
    names = list(dict.fromkeys(name for one in options for name in one))
    return [
        [name, *("(none)" if name not in one else _short(one[name]) for one in options)]
        for name in names
        if len({str(one.get(name)) for one in options}) > 1
    ]


def changes(first: Predictions, second: Predictions) -> Changes:
    """Compare two predictions for the same images (McNemar 1947; exact, by the binomial distribution)."""
    from scipy.stats import binomtest  # slow to import

    before, after = first.errors, second.errors
    still = np.isin(after, before)
    fixed, new = before[~np.isin(before, after)], after[~still]
    changed = len(fixed) + len(new)
    p_value = float(binomtest(len(new), changed).pvalue) if changed else 1.0
    return Changes(fixed, new, after[still], p_value)


def changed_images(first: RunResults, second: RunResults, found: Changes) -> list[ChangedImages]:
    """Return what the page shows of each kind."""
    split, classes = first.test_images, first.classes

    def item(row: int) -> dict[str, Any]:
        index = int(first.test.indices[row])
        guesses = [f"{classes[test.predicted[row]]} ({test.confidence[row]:.0%})" for test in (first.test, second.test)]
        return {
            "index": index,
            "true": classes[first.test.labels[row]],
            "before": guesses[0],
            "after": guesses[1],
            "image": thumbnail(split.images[index]),
        }

    kinds = {
        "Fixed: misclassified by the first run only": found.fixed,
        "New: misclassified by the second run only": found.new,
        "Stay: misclassified by both": found.stay,
    }
    return [
        ChangedImages(heading, len(rows), [item(row) for row in rows[:MAX_SHOWN].tolist()])
        for heading, rows in kinds.items()
    ]


def _short(value: Any) -> str:
    """Return the value of an option as text, classes as calls."""
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    if isinstance(value, dict) and "class_path" in value:
        given = {name: one for name, one in (value.get("init_args") or {}).items() if one is not None}
        arguments = ", ".join(f"{name}={_short(one)}" for name, one in given.items())
        return f"{value['class_path'].rpartition('.')[2]}({arguments})"
    return str(value)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
