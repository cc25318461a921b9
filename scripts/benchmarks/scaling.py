"""Ten and a hundred times more images: time and memory of everything that handles all of them.

Run as a program, this file measures one size in a process of its own: scaling.py COUNT FILE.
"""

import json
import resource
import sys
import time
from pathlib import Path

from harness import Row, Settings, python


def measure(settings: Settings) -> list[Row]:
    """Do the same work with 5,000, 50,000 and 500,000 images."""
    sizes = (100, 1000) if settings.quick else (5_000, 50_000, 500_000)
    time_us: dict[int, dict[str, float]] = {}  # per image, for each kind of work
    memory_kb: dict[int, float] = {}  # per image
    for size in sizes:
        runs = []
        for _ in range(1 if settings.quick or size > 100_000 else 3):
            process = python(__file__, str(size), str(settings.scratch / "images.npy"), threads=1)
            runs.append(json.loads(process.stdout))
        time_us[size] = {name: min(run["seconds"][name] for run in runs) / size * 1e6 for name in runs[0]["seconds"]}
        memory_kb[size] = min(run["peak_mb"] for run in runs) / size * 1e3
    small, *larger = sizes
    rows = []
    for size in larger:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in time_us[size].items())
        ours, base = sum(time_us[size].values()), sum(time_us[small].values())
        rows.append(
            _row(f"{size:,} images ({parts})", f"{ours:.1f} us", f"{small:,} images: {base:.1f} us", ours / base)
        )
    for size in larger[1:]:
        ours, base = memory_kb[size], memory_kb[larger[0]]
        rows.append(
            _row(f"memory, {size:,} images", f"{ours:.2f} kB", f"{larger[0]:,} images: {base:.2f} kB", ours / base)
        )
    return rows


def _row(what: str, ours: str, peer: str, ratio: float) -> Row:
    result = f"{ratio - 1:+.0%}"
    return Row("scaling", what, f"{ours} an image", f"{peer} an image", result, "must within +10%", ratio < 1.1)


def _handle_images(count: int, file: Path) -> dict[str, float]:
    """Return the seconds of each kind of work on `count` images."""
    import numpy as np
    import torch

    from cifar_lit.analysis import scores
    from cifar_lit.analysis.label_issues import find_label_issues
    from cifar_lit.analysis.predictions import Predictions, write_csv
    from cifar_lit.data.augment.config import AugmentConfig
    from cifar_lit.data.augment.device import DeviceAugmentation
    from cifar_lit.data.dataset import ImageDataset, Split, channel_statistics
    from cifar_lit.data.loaders import DeviceLoader
    from cifar_lit.data.sampling import TrainSampler, stratified_split

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 32, 32, 3))
    for start in range(0, count, 1000):
        images[start : start + 1000] = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    images = np.load(file, mmap_mode="r")
    split = Split(images, rng.integers(0, 10, count))
    seconds = {}
    start_s = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start_s
        seconds[name] = time.perf_counter() - start_s
        start_s = time.perf_counter()

    _ = split.fingerprint
    channel_statistics(images)
    lap("fingerprint and statistics")
    indices, _ = stratified_split(split.labels, count // 10, 0)
    dataset = ImageDataset(split, indices)
    sampler = TrainSampler(dataset, 0, lambda: (0, 0), 512, 0, 1)
    list(sampler)
    lap("split and order")
    for _ in DeviceLoader(dataset, sampler, DeviceAugmentation(AugmentConfig(32), (0.5, 0.5, 0.5)), 512, False, "cpu"):
        pass
    lap("one epoch, augmented in batches")
    logits = torch.from_numpy(rng.standard_normal((count, 10))).log_softmax(1).numpy()
    start_s = time.perf_counter()
    predictions = Predictions(np.arange(count), split.labels, logits)
    scores.class_scores(scores.confusion(predictions))
    scores.calibration(predictions)
    find_label_issues(predictions)
    _ = predictions.errors
    lap("scores")
    write_csv(file.with_suffix(".csv"), predictions, [str(i) for i in range(10)])
    lap("predictions.csv")
    file.unlink()
    return seconds


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss includes the peak of the parent process
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    size, images_file = int(sys.argv[1]), Path(sys.argv[2])
    _handle_images(1000, images_file)  # warm up
    before = _peak_mb()
    times = _handle_images(size, images_file)
    print(json.dumps({"seconds": times, "peak_mb": _peak_mb() - before}))
