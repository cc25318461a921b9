"""A model card as model hubs read it: YAML front matter, then how to use the network, and what it misclassifies."""

from typing import Any

import numpy as np
import yaml

from cifar_lit.analysis import scores
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.report.results import RunResults
from cifar_lit.utils.environment import PACKAGES
from cifar_lit.utils.text import counted

HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
USES = {
    "model.onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((1, {size}, {size}, 3), dtype=np.uint8)  # (N, H, W, 3), RGB
({output},) = session.run(None, {{"images": images}})""",
    "model.pt2": """\
import torch

module = torch.export.load("model.pt2").module()
images = torch.zeros(1, {size}, {size}, 3, dtype=torch.uint8)  # (N, H, W, 3), RGB
{output} = module(images)""",
    "model.ckpt": """\
import cifar_lit

classifier = cifar_lit.load("model.ckpt")
classifier.predict("image.png").top(3)  # files, PIL images, arrays or tensors of any size""",
    "model.safetensors": """\
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from cifar_lit.models.resnet import ResNet18

values = json.loads(Path("model.json").read_text())
net = ResNet18(len(values["classes"]), values["mean"], values["std"], values["stem"], values["norm"])
net.load_state_dict(load_file("model.safetensors"))
images = torch.zeros(1, {size}, {size}, 3, dtype=torch.uint8)  # (N, H, W, 3), RGB
logits = net.eval()(images)""",
}
NUM_CLASSES, NUM_CONFUSIONS = 3, 5


def model_card(results: RunResults, file: str, logits: bool = False, license: str = "mit") -> str:
    """Return the card of an exported network, Markdown.

    Args:
        results: The run.
        file: Name of the exported file, a key of USES.
        logits: Whether it returns logits instead of probabilities.
        license: Identifier of the license.
    """
    header = yaml.safe_dump(_front_matter(results, license), sort_keys=False, allow_unicode=True)
    size, output = results.data.image_size, "logits" if logits else "probabilities"
    names = ", ".join(f"`{name}`" for name in results.classes)
    return "\n".join(
        [
            f"---\n{header}---\n",
            f"# ResNet-18, {results.name}\n",
            f"An image classifier for {len(results.classes)} classes: {names}. Trained with cifar_lit.\n",
            "## How to use it\n",
            f"```python\n{USES[file].format(size=size, output=output)}\n```\n",
            f"Images are uint8, RGB, {size} x {size} px, not normalized. Resize and crop others with Pillow, as in "
            f"training: `ImageOps.fit(image, ({size}, {size}), Image.Resampling.LANCZOS)`.\n",
            "## How good it is\n",
            *_quality(results),
            "\n## What it misclassifies\n",
            *_errors(results),
            "\n## What it was trained on\n",
            *_training(results),
            "",
        ]
    )


def _front_matter(results: RunResults, license: str) -> dict[str, Any]:
    source = results.data.source
    metrics = [_metric("accuracy", "Test accuracy", results.test)]
    if results.test_flip_tta:
        metrics.append(_metric("accuracy", "Test accuracy with flip test-time augmentation", results.test_flip_tta))
    dataset = {
        "type": HUB_DATASETS.get(source, source),
        "name": _data_name(results),
        "split": "test",
        "revision": results.fingerprints["test"],
    }
    return {
        "license": license,
        "library_name": "cifar_lit",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "resnet-18", "pytorch", "pytorch-lightning", "cifar_lit"],
        **({"datasets": [HUB_DATASETS[source]]} if source in HUB_DATASETS else {}),
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": f"ResNet-18, {results.name}",
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image Classification"},
                        "dataset": dataset,
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }


def _metric(kind: str, name: str, predictions: Predictions) -> dict[str, Any]:
    low, high = _interval(predictions)
    interval = f"95% interval {low:.4f} to {high:.4f}, {len(predictions)} images"
    return {"type": kind, "name": f"{name} ({interval})", "value": round(predictions.accuracy, 4)}


def _interval(predictions: Predictions) -> tuple[float, float]:
    return scores.accuracy_interval(len(predictions) - len(predictions.errors), len(predictions))


def _data_name(results: RunResults) -> str:
    names = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "scikit-learn's digits"}
    return names.get(results.data.source, "a folder of images")


def _quality(results: RunResults) -> list[str]:
    lines = ["| images | accuracy | 95% interval | loss | calibration error |", "|---|---|---|---|---|"]
    kinds = {"test": results.test, "test, with flip test-time augmentation": results.test_flip_tta}
    for name, predictions in kinds.items():
        if predictions:
            low, high = _interval(predictions)
            error = scores.calibration(predictions).error
            lines.append(
                f"| {name}, {len(predictions):,} | {predictions.accuracy:.2%} | {low:.2%} to {high:.2%} | "
                f"{predictions.loss:.3f} | {error:.1%} |"
            )
    return lines


def _errors(results: RunResults) -> list[str]:
    table = scores.confusion(results.test)
    recall = scores.class_scores(table).recall
    order = [i for i in np.argsort(recall, kind="stable").tolist() if not np.isnan(recall[i])][:NUM_CLASSES]
    weakest = ", ".join(f"`{results.classes[i]}` {recall[i]:.1%}" for i in order)
    pairs = [
        f"- `{results.classes[true]}` predicted as `{results.classes[predicted]}`: {count} of {table[true].sum()}"
        for true, predicted, count in scores.confused_pairs(table, NUM_CONFUSIONS)
    ]
    errors = f"{len(results.test.errors):,} of {len(results.test):,} test images are misclassified."
    return [f"{errors} Weakest classes: {weakest}. Most frequent confusions:\n", *pairs]


def _training(results: RunResults) -> list[str]:
    part, data = results.provenance.parts[0], results.data
    versions = ", ".join(f"{name} {part[name]}" for name in ("cifar_lit", "python", *PACKAGES) if name in part)
    lines = [f"- Data: {_data_name(results)}, images of {data.image_size} px"]
    if "train" in results.fingerprints:
        lines.append(f"- Fingerprint of the training set (BLAKE2b): `{results.fingerprints['train']}`")
    lines += [
        f"- Fingerprint of the test set: `{results.fingerprints['test']}`",
        f"- Run: `{results.name}`, {counted(len(results.epochs), 'epoch')}, {results.weights}",
        f"- Command: `{part.get('command')}`",
        f"- Hardware: {results.provenance.hardware}",
        f"- Versions: {versions}; commit `{part.get('commit')}`",
    ]
    return lines
