"""One process or two, on the same cores, with the same number of images a step."""

import os

from harness import NO_EXTRAS, ROOT, Row, Settings, alternate, epochs_of_newest_run, faster, python


def measure(settings: Settings) -> list[Row]:
    """Train on the digits for some steps, with all cores in one process or divided between two."""
    cores = os.cpu_count() or 1
    batch, steps = (32, 2) if settings.quick else (128, 10)

    def train(processes: int) -> float:
        python(
            *("-m", "cifar_lit.fit", "--config", str(ROOT / "configs" / "demo.yaml")),
            *("--trainer.accelerator", "cpu", "--trainer.devices", str(processes), "--trainer.max_epochs", "1"),
            *("--trainer.limit_train_batches", str(steps), "--trainer.limit_test_batches", "1"),
            *("--data.batch_size", str(batch // processes), "--data.num_workers", "0", "--data.augment_on", "device"),
            *NO_EXTRAS,
            cwd=settings.scratch,
            threads=max(1, cores // processes),
        )
        (epoch,) = epochs_of_newest_run(settings.scratch)
        return batch * steps / epoch.images_per_second

    times = alternate(0, one=lambda: train(1), two=lambda: train(2))
    what = f"2 CPU processes of {max(1, cores // 2)} threads, 7x7 stem, {batch} images a step"
    return [faster("processes", what, times["two"], times["one"], batch * steps, f"1 process of {cores} threads")]
