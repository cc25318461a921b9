"""`report/index.html`: everything about a run on one page that needs nothing else."""

import base64
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cifar_lit.analysis import faithfulness
from cifar_lit.analysis import scores as metrics
from cifar_lit.analysis.gradcam import activation_maps, default_layer, upscale
from cifar_lit.analysis.label_issues import find_label_issues
from cifar_lit.models.resnet import LAYERS
from cifar_lit.report import figures
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import record_failure
from cifar_lit.utils import hardware

SUSPECTS = 20
MOST_CLASSES = 200  # of a confusion matrix; of 1,000 it would have a million cells
LARGEST = 96  # pixels of a image on the page
LOSSLESS = 48  # pixels up to which a image stays as it is, and those of a map
BATCH = 20  # images explained at once
INK = "#123456"  # stands for the page's text colour while matplotlib draws
PICTURES = {  # those of the short version
    "misclassified.png": "The most wrong test images",
    "gradcam_true.png": "What speaks for the true class",
    "gradcam_predicted.png": "What speaks for the predicted class",
    "confusion.png": "Confusion matrix",
    "curves.png": "Loss, accuracy and learning rate over epochs",
}
Context = dict[str, Any]


def build(
    analysis: Analysis, folder: Path, max_listed: int | None, num_cams: int, num_road: int, method: str
) -> tuple[str, str]:
    """Fill the templates; a section that cannot be made gives way to the reason, which is noted as a problem.

    Args:
        analysis: The run.
        folder: The report's folder, for the images that others left in it.
        max_listed: How many of the misclassified images are on the page, the most wrong first; None for all.
        num_cams: How many of the most wrong images get maps.
        num_road: How many of those get the scores of their maps.
        method: How the maps are made, as in `activation_maps`.

    Returns:
        HTML, and a short version in Markdown.
    """
    sections: dict[str, Callable[[], Context]] = {
        "quality": lambda: _quality(analysis),
        "training": lambda: _training(analysis),
        "errors": lambda: _errors(analysis),
        "images": lambda: _images(analysis, max_listed, num_cams, method),
        "trust": lambda: _trust(analysis, min(num_road, num_cams), method),
        "facts": lambda: _facts(analysis),
    }
    context: dict[str, Context] = {}
    for name, make in sections.items():
        try:
            context[name] = make()
        except Exception as error:
            context[name] = {"problem": record_failure(analysis, folder, f"Page ({name})", error)}
    run = analysis.run.resolve()
    common: Context = {"title": f"{run.parent.name} / {run.name}", "weights": analysis.weights}
    html = render(
        "page.html",
        **context,
        **common,
        classes=analysis.data.splits.classes,
        method=figures.method_name(method),
        problems=analysis.problems,
    )
    drawn = [(name, alt) for name, alt in PICTURES.items() if (folder / name).exists()]
    if "problem" in context["quality"]:
        return html, f"# {common['title']}\n\n{context['quality']['problem']}\n"
    readme = render("readme.md", **common, quality=context["quality"], images=drawn)
    return html, readme


def render(template: str, **context: Any) -> str:
    """Fill one of the package's templates; what goes into HTML is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifar_lit.report"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**context)


def _quality(analysis: Analysis) -> Context:
    test, train = analysis.test, analysis.train
    scores = metrics.class_scores(metrics.confusion(test))
    bins = metrics.calibration(test)
    counts = np.bincount(test.labels, minlength=len(analysis.data.splits.classes))
    by_class = zip(analysis.data.splits.classes, counts, scores.recall, scores.precision, scores.f1, strict=True)
    return {
        "splits": [
            {"name": name, **metrics.summary(one)}
            for name, one in (("test", test), ("test, flip TTA", analysis.flip_tta), ("train", train))
            if one
        ],
        "classes": [[name, *map(float, row)] for name, *row in by_class],
        "reliability": _svg(lambda: figures.reliability(bins.count, bins.confidence, bins.accuracy, bins.error)),
    }


def _training(analysis: Analysis) -> Context:
    rows = analysis.history
    curve = analysis.run / "report" / "lr_find.png"
    return {
        "curves": _svg(lambda: figures.curves(rows)) if rows else "",
        "seconds": [row["seconds"] for row in rows],
        "per_second": [row["train/images_per_second"] for row in rows],
        "waiting": [row["train/data_time_fraction"] for row in rows],
        "lr_find": _data_uri(curve.read_bytes(), "png") if curve.exists() else "",
    }


def _errors(analysis: Analysis) -> Context:
    table = metrics.confusion(analysis.test)
    drawn = len(table) <= MOST_CLASSES
    return {
        "confusion": table.tolist() if drawn else [],
        "shares": (table / np.maximum(table.sum(axis=1, keepdims=True), 1)).tolist() if drawn else [],
        "pairs": metrics.confused_pairs(table),
    }


def _images(analysis: Analysis, max_listed: int | None, num_cams: int, method: str) -> Context:
    """Collect the errors, the suspects of wrong labels, and the maps of the first ones."""
    test, data = analysis.test, analysis.data
    errors = test.errors[:max_listed].tolist()
    suspects = find_label_issues(test)[:SUSPECTS].tolist()
    if max_listed is not None:  # no other images than those
        suspects = [row for row in suspects if row in errors]
    rows = list(dict.fromkeys([*errors, *suspects]))
    images, files = data.splits.test.images, data.splits.test.files
    items = [
        {
            "index": int(test.indices[row]),
            "true": int(test.labels[row]),
            "predicted": int(test.predicted[row]),
            "p": _highest(test.probabilities[row], test.labels[row]),
            "loss": round(float(test.losses[row]), 4),
            "margin": round(float(test.margins[row]), 4),
            "image": thumbnail(images[test.indices[row]]),
            **({"file": files[test.indices[row]]} if files else {}),
        }
        for row in rows
    ]
    first = np.array(rows[:num_cams], dtype=np.int64)
    for start in tqdm(range(0, len(first), BATCH), desc="explaining the errors", leave=False, disable=None):
        part = first[start : start + BATCH]
        asked = np.stack([test.labels[part], test.predicted[part]], axis=1)
        raw = activation_maps(analysis.net, images[test.indices[part]], asked, LAYERS, method)
        for position, item in enumerate(items[start : start + len(part)]):
            item["maps"] = {layer: [_quantised(one) for one in raw[layer][position]] for layer in LAYERS}
    return {
        "items": items,
        "errors": len(errors),
        "misclassified": len(test.errors),
        "suspects": [rows.index(row) for row in suspects],
        "explained": len(first),
        "colours": base64.b64encode(_colours("inferno")).decode(),
        "difference": base64.b64encode(_colours("PuOr")).decode(),
    }


def _highest(probabilities: NDArray[np.float64], label: int) -> dict[int, float]:
    """Return the probabilities of the ten most probable classes and of the true one."""
    shown = {*np.argsort(-probabilities)[:10].tolist(), int(label)}
    return {one: round(float(probabilities[one]), 4) for one in sorted(shown)}


def _trust(analysis: Analysis, num_road: int, method: str) -> Context:
    """Score the maps of the first images, and compare with those of a network that forgets."""
    test, data = analysis.test, analysis.data
    layer = default_layer(analysis.net, data.image_size)
    rows = test.errors[:num_road]
    if not len(rows):
        return {"layer": layer, "scored": 0, "road": {}, "means": {}, "randomisation": []}
    images = data.splits.test.images[test.indices[rows]]
    asked = np.stack([test.labels[rows], test.predicted[rows]], axis=1)
    raw = activation_maps(analysis.net, images, asked, LAYERS, method)
    heat = [upscale(one, data.image_size) for name in LAYERS for pair in raw[name] for one in pair]
    scores = faithfulness.road(
        analysis.net,
        np.concatenate([images.repeat(2, axis=0)] * len(LAYERS)),
        np.tile(asked.ravel(), len(LAYERS)),
        np.stack(heat),
    ).reshape(len(LAYERS), len(rows), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy's, where all maps of a layer are empty
        means = np.nanmean(scores, axis=1)
    return {
        "layer": layer,
        "scored": len(rows),
        "road": {name: [_rounded(pair) for pair in one] for name, one in zip(LAYERS, scores, strict=True)},
        "means": {name: _rounded(pair) for name, pair in zip(LAYERS, means, strict=True)},
        "randomisation": faithfulness.cascading_randomization(analysis.net, images, asked[:, 1], layer, method),
    }


def _rounded(scores: NDArray[np.float32]) -> list[float | None]:
    return [None if np.isnan(score) else round(float(score), 3) for score in scores]


def _facts(analysis: Analysis) -> Context:
    """Tell what exactly ran: from the run's own notes where there are some."""
    images, net = analysis.data.splits, analysis.net
    config, notes = analysis.run / "config.yaml", analysis.run / "provenance.json"
    known = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else hardware.describe()
    options = config.read_text(encoding="utf-8") if config.exists() else ""
    for later in sorted(analysis.run.glob("provenance_*.json"), key=lambda path: int(path.stem.split("_")[1])):
        resumed = json.loads(later.read_text(encoding="utf-8"))
        part = later.stem.replace("run_", "resumed, part ")
        news = {name: value for name, value in resumed.items() if name == "command" or value != known.get(name)}
        known |= {f"{part}, {name}": value for name, value in news.items()}
    facts: dict[str, object] = {
        "weights": analysis.weights,
        "parameters": f"{sum(parameter.numel() for parameter in net.parameters()):,}",
        "training images": f"{len(analysis.data.train_dataset):,} of {len(images.train):,}",
        "fingerprint of the training set": images.train.fingerprint,
        "test images": f"{len(analysis.test):,} of {len(images.test):,}",
        "fingerprint of the test set": images.test.fingerprint,
        "device of this report": str(analysis.trainer.strategy.root_device),
        **({"command of this report": analysis.evaluated} if analysis.evaluated else {}),
        **known,
    }
    if options:
        seed = yaml.safe_load(options)["seed_everything"]
        facts = {"recipe": analysis.run.resolve().parent.name, "seed": seed, **facts}
    return {
        "facts": {
            name: ", ".join(map(str, v)) or "none" if isinstance(v, list) else str(v) for name, v in facts.items()
        },
        "config": options,
        "network": str(net),
    }


def _svg(draw: Callable[[], Figure]) -> str:
    """Draw a figure in the page's own text colour, for light and dark."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    style: Any = {"svg.fonttype": "none", "legend.framealpha": 0, "svg.hashsalt": "cifar_lit"}
    with matplotlib.rc_context(style | dict.fromkeys(inked, INK)):
        file = io.StringIO()
        draw().savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def thumbnail(image: NDArray[np.uint8]) -> str:
    """Return a image as a data URI, unchanged if it is small: a hundred of them must not make a page heavy."""
    thumb, file = Image.fromarray(image), io.BytesIO()
    if max(thumb.size) <= LOSSLESS:
        thumb.save(file, "WEBP", lossless=True, method=0)  # of CIFAR-10, 28 % smaller than PNG, and faster
    else:
        thumb.thumbnail((LARGEST, LARGEST))
        thumb.save(file, "WEBP", quality=85)
    return _data_uri(file.getvalue(), "webp")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _quantised(activation: NDArray[np.float32]) -> list[object]:
    """Return a map's width and its values, 0..255 between its lowest and highest, as the page's script wants them."""
    small = activation
    if small.shape[0] > LOSSLESS:
        resized = Image.fromarray(small).resize((LOSSLESS, LOSSLESS), Image.Resampling.BILINEAR)
        small = np.asarray(resized, dtype=np.float32)
    low, high = float(small.min()), float(small.max())
    scaled = (small - low) * (255 / (high - low)) if high > low else np.zeros_like(small)
    return [small.shape[1], base64.b64encode(scaled.round().astype(np.uint8).tobytes()).decode()]


def _colours(name: str) -> bytes:
    """Return 256 RGB triples of a colour map."""
    table = matplotlib.colormaps[name](np.arange(256))[:, :3]
    return (np.asarray(table) * 255).round().astype(np.uint8).tobytes()
