"""Classifying image files: do decoding and the forward pass overlap, and does the memory stay flat?

Run as a program, this file measures the memory in a process of its own: predict.py CHECKPOINT FOLDER COUNT
"""

import itertools
import os
import sys
from pathlib import Path

import torch
from harness import MEAN, STD, Row, Settings, alternate, faster, python
from synthetic import generate

from cifar_lit.inference.classifier import Classifier
from cifar_lit.inference.prediction import predict_all
from cifar_lit.inference.stream import read_batches
from cifar_lit.models.resnet import ResNet18
from cifar_lit.utils.hardware import available_cores, eval_batch_size

SIZE_PX, PHOTO_PX = 32, 480
BATCH = eval_batch_size(SIZE_PX)
STATUS = Path("/proc/self/status")
CLASSES = tuple(f"class{i}" for i in range(10))


def measure(settings: Settings) -> list[Row]:
    """Decode and classify photos, separately and together; then classify many small images."""
    built = {"num_classes": len(CLASSES), "mean": MEAN, "std": STD, "stem": "imagenet", "norm": "batch"}
    weights = {f"net.{name}": tensor for name, tensor in ResNet18(**built).state_dict().items()}
    data = {"classes": CLASSES, "image_size": SIZE_PX}
    checkpoint = settings.scratch / "untrained.ckpt"
    torch.save({"state_dict": weights, "hyper_parameters": built, "ImageDataModule": data}, checkpoint)
    return [_overlap(settings, checkpoint), _memory(settings, checkpoint)]


def _overlap(settings: Settings, checkpoint: Path) -> Row:
    photos = settings.scratch / "photos"
    generate(photos, BATCH // 4, 0, PHOTO_PX)
    files = [str(file) for file in sorted(photos.glob("*/*/*"))] * (4 if settings.quick else 40)
    classifier = Classifier.load(checkpoint)
    cores, threads = available_cores(), torch.get_num_threads()
    on_cpu = classifier.device.type == "cpu"
    workers = max(1, cores // 2) if on_cpu else cores
    batch = torch.zeros(BATCH, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8)

    def decode() -> None:
        for _ in read_batches(files, SIZE_PX, BATCH, workers):
            pass

    def forward() -> None:
        for _ in range(len(files) // BATCH):
            classifier.probabilities(batch)

    def together() -> None:
        for _ in classifier.stream(files, workers):
            pass

    try:
        if on_cpu:  # each has its own cores, as on a machine with a GPU
            torch.set_num_threads(max(1, cores // 2))
        times = alternate(0 if settings.quick else 2, decode=decode, forward=forward, together=together)
    finally:
        torch.set_num_threads(threads)
    slower = max(("decode", "forward"), key=lambda name: times[name].median)
    what = f"{PHOTO_PX} px JPEG files to {SIZE_PX} px, {workers} workers" + ", half of the cores each" * on_cpu
    peer = (
        f"{slower} alone, the slower (decode {times['decode'].median:.2f} s, forward {times['forward'].median:.2f} s)"
    )
    return faster("predict", what, times["together"], times[slower], len(files), peer, 0.8)


def _memory(settings: Settings, checkpoint: Path) -> Row:
    """Classify links to a few small images."""
    if not STATUS.exists():
        return Row("predict", "memory", "not measured", "needs Linux", "")
    generate(settings.scratch / "few", 20, 0)
    few = sorted((settings.scratch / "few").glob("*/*/*"))
    early, count = (300, 1000) if settings.quick else (10_000, 100_000)
    folder = settings.scratch / "many"
    folder.mkdir()
    for i in range(count):
        os.symlink(few[i % len(few)], folder / f"{i}.jpg")
    small, large = map(float, python(__file__, str(checkpoint), str(folder), str(early)).stdout.split())
    return Row(
        "predict",
        f"memory, {count:,} files, without the forward pass",
        f"{large:.1f} MB",
        f"after {early:,}: {small:.1f} MB",
        f"{large - small:+.1f} MB",
        "must +5 MB",
        large - small < 5,
    )


def _classify(checkpoint: str, folder: str, early: str) -> None:
    """Classify files with a network that takes no time; print the memory after `early` of them, and at the end."""
    table = torch.rand(BATCH, len(CLASSES))
    batches = itertools.count(1)

    def forward(classifier: Classifier, images: torch.Tensor, divisor: float = 1.0) -> torch.Tensor:
        if next(batches) == int(early) // BATCH:
            print(_resident_mb())
        return table[: len(images)]

    Classifier._forward = forward
    predict_all(checkpoint, [folder], out=f"{folder}.csv", num_workers=2)
    print(_resident_mb())


def _resident_mb() -> float:
    return int(STATUS.read_text().split("VmRSS:")[1].split()[0]) / 1e3


if __name__ == "__main__":
    _classify(*sys.argv[1:])
