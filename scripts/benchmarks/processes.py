"""One process or two, on the same cores, with the same images a step."""

import csv
import os
import subprocess
import sys

import torch
from harness import ROOT, Row, Settings, Times, alternate, faster


def measure(settings: Settings) -> list[Row]:
    """Train on the digits for some steps; all CPUs in one process, or shared among two."""
    cores = os.cpu_count() or 1
    batch, steps = (32, 2) if settings.quick else (128, 10)

    def train(processes: int) -> float:
        command = [
            *(sys.executable, "-m", "cifar_lit.fit", "--config", str(ROOT / "configs" / "demo.yaml")),
            *("--trainer.accelerator", "cpu", "--trainer.devices", str(processes), "--trainer.max_epochs", "1"),
            *("--trainer.limit_train_batches", str(steps), "--trainer.limit_test_batches", "1"),
            *("--data.batch_size", str(batch // processes), "--data.num_workers", "0", "--data.augment_on", "device"),
            *("--page.num_cams", "0", "--page.num_road", "0", "--projector.num_images", "0"),
        ]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(max(1, cores // processes))}
        done = subprocess.run(command, env=env, cwd=settings.scratch, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        runs = sorted((settings.scratch / "lightning_logs" / "demo").glob("version_*"), key=os.path.getctime)
        with open(runs[-1] / "report" / "history.csv", newline="", encoding="utf-8") as file:
            speed = float(next(csv.DictReader(file))["train/images_per_second"])
        return batch * steps / speed

    times: dict[str, Times] = alternate(0, one=lambda: train(1), two=lambda: train(2))
    what = f"2 CPU processes of {max(1, cores // 2)} threads, 7x7 stem, {batch} images a step"
    against = f"1 process of {torch.get_num_threads()} threads"
    return [faster("processes", what, times["two"], times["one"], batch * steps, against)]
