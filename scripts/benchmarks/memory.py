"""Memory of every additional worker, beside the data set that all of them share."""

from pathlib import Path

import numpy as np
from harness import Row, Settings

from cifar_lit.data.datamodule import ImageDataModule


def measure(settings: Settings) -> list[Row]:
    """Let workers prepare most of an epoch and read their private memory."""
    if not Path("/proc/self/smaps_rollup").exists():
        return [Row("memory", "per worker", "not measured", "needs Linux", "")]
    data = ImageDataModule(
        "folder", str(settings.root), num_workers=2, batch_size=512, cache_dir=str(settings.cache), val_size=0
    )
    loader = data.train_dataloader()
    batches = iter(loader)
    for _ in range(max(1, min(len(loader) - 2, 80))):  # then each worker has read images from the entire data set
        next(batches)
    private = [_private_mb(worker.pid) for worker in loader._iterator._workers]
    batches.close()
    most = max(private)
    ours = f"{np.mean(private):.0f} MB (at most {most:.0f})"
    peer = f"a copy of the data set: {data.splits.train.images.nbytes / 1e6:.0f} MB"
    return [Row("memory", "per worker, private", ours, peer, f"{most:.0f} MB", "must 30 MB", most < 30)]


def _private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1000
