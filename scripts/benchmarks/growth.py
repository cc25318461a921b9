"""Ten and a hundred times more images: time and memory of everything that handles all of them."""

import json

from harness import Row, Settings, python

WORK = """
import json, os, resource, sys, time
from pathlib import Path
import numpy as np
import torch
from cifar_lit.analysis import scores as metrics
from cifar_lit.data.augment.config import AugmentOptions
from cifar_lit.data.dataset import ImageDataset, TrainSampler
from cifar_lit.data.loaders import DeviceLoader
from cifar_lit.data.augment.device import DeviceAugmentation
from cifar_lit.data.dataset import Split, channel_statistics
from cifar_lit.analysis.label_issues import find_label_issues
from cifar_lit.analysis.predictions import Predictions, write_csv
from cifar_lit.data.splits import stratified_split

torch.set_num_threads(1)
count, file = int(sys.argv[1]), Path(sys.argv[2])
rng = np.random.default_rng(0)

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with that of the process which started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

def work(count):
    images = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 32, 32, 3))
    for start in range(0, count, 1000):
        images[start : start + 1000] = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    images = np.load(file, mmap_mode="r")
    split = Split(images, rng.integers(0, 10, count))
    seconds = {}
    began = time.perf_counter()
    def lap(name):
        nonlocal began
        seconds[name] = time.perf_counter() - began
        began = time.perf_counter()
    split.fingerprint
    channel_statistics(images)
    lap("fingerprint and statistics")
    indices, _ = stratified_split(split.labels, count // 10, 0)
    dataset = ImageDataset(split, indices)
    sampler = TrainSampler(dataset, 0, lambda: (0, 0), 512, 0, 1)
    list(sampler)
    lap("split and order")
    loader = DeviceLoader(dataset, sampler, DeviceAugmentation(AugmentOptions(32, (0.5, 0.5, 0.5))), 512, False, "cpu")
    for batch in loader:
        pass
    lap("one epoch, augmented in batches")
    logits = torch.from_numpy(rng.standard_normal((count, 10))).log_softmax(1).numpy()
    began = time.perf_counter()
    predictions = Predictions(np.arange(count), split.labels, logits)
    metrics.class_scores(metrics.confusion(predictions)), metrics.calibration(predictions)
    find_label_issues(predictions), predictions.errors
    lap("scores")
    write_csv(file.with_suffix(".csv"), predictions, [str(i) for i in range(10)])
    lap("predictions.csv")
    return seconds

work(1000)
before = peak()
print(json.dumps([work(count), peak() - before]))
os.unlink(file)
"""


def measure(settings: Settings) -> list[Row]:
    """Do the same with 5,000, 50,000 and 500,000 images, each in a process of its own."""
    sizes = (100, 1000) if settings.quick else (5_000, 50_000, 500_000)
    found = {}
    for size in sizes:
        runs = []
        for _ in range(1 if settings.quick or size > 100_000 else 3):
            done = python(WORK, str(size), str(settings.scratch / "images.npy"), threads=1)
            assert done.returncode == 0, done.stderr
            runs.append(json.loads(done.stdout))
        seconds = {name: min(run[0][name] for run in runs) for name in runs[0][0]}
        found[size] = seconds, min(run[1] for run in runs)
    small, *larger = sizes
    rows = []
    for size in larger:
        parts = {name: took / size * 1e6 for name, took in found[size][0].items()}
        each, base = sum(parts.values()), sum(found[small][0].values()) / small * 1e6
        rows.append(
            Row(
                "growth",
                f"{size:,} images (" + ", ".join(f"{name} {took:.1f}" for name, took in parts.items()) + ")",
                f"{each:.1f} us a image",
                f"{small:,} images: {base:.1f} us a image",
                f"{each / base - 1:+.0%}",
                "must within +10 %",
                each / base < 1.1,
            )
        )
    for size in larger[1:]:
        middle = larger[0]
        per, base = found[size][1] / size * 1e3, found[middle][1] / middle * 1e3
        rows.append(
            Row(
                "growth",
                f"memory, {size:,} images",
                f"{per:.2f} kB a image",
                f"{middle:,} images: {base:.2f} kB a image",
                f"{per / base - 1:+.0%}",
                "must within +10 %",
                per / base < 1.1,
            )
        )
    return rows
