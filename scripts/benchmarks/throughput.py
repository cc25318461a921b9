"""Training with data loading: the default recipe compared with a loop as tutorials write it."""

import itertools
import time

import torch
from harness import NO_EXTRAS, Row, Settings, alternate, epochs_of_newest_run, faster, quiet
from plain_loop import AUGMENT, BATCH_SIZE, build, train
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from cifar_lit.fit import main
from cifar_lit.utils.hardware import available_cores


def measure(settings: Settings) -> list[Row]:
    """Train for an epoch on a GPU, for a few steps on a CPU; starting the workers is not counted."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    batch = 8 if settings.quick else 512 if on_gpu else BATCH_SIZE
    steps = 2 if settings.quick else 90 if on_gpu else 3
    workers = 16 if on_gpu else available_cores()
    dataset = ImageFolder(str(settings.root / "train"), transforms.Compose(AUGMENT))
    loader = DataLoader(
        dataset, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True, pin_memory=on_gpu
    )
    net, optimizer, schedule = build(total_steps=10_000)
    net.to(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def plain() -> float:
        batches = iter(loader)
        first = next(batches)
        start = time.perf_counter()
        train(net, optimizer, schedule, itertools.chain([first], itertools.islice(batches, steps - 1)), device)
        return time.perf_counter() - start

    data_time = []

    def ours() -> float:
        with quiet():
            main(
                [
                    *("--data.source", "folder", "--data.root", str(settings.root), "--data.val_size", "0"),
                    *("--data.batch_size", str(batch), "--trainer.limit_train_batches", str(steps)),
                    *("--trainer.max_epochs", "2", "--trainer.limit_test_batches", "2", *NO_EXTRAS),
                    *("--trainer.default_root_dir", str(settings.scratch), "--data.cache_dir", str(settings.cache)),
                    *("--model.stem", "imagenet") * settings.quick,
                ]
            )
        _, epoch = epochs_of_newest_run(settings.scratch)  # the first one warms up
        data_time.append(epoch.data_time_fraction)
        return batch * steps / epoch.images_per_second

    times = alternate(0 if settings.quick or not on_gpu else 3, plain=plain, ours=ours)
    what = f"training with data loading, batch {batch}, {steps} steps"
    against = f"float32 loop with OneCycle, torchvision transforms in {workers} workers"
    row = faster("throughput", what, times["ours"], times["plain"], batch * steps, against, 6 if on_gpu else None)
    fraction = max(data_time[-3:])
    goal, met = ("must 2%", fraction < 0.02) if on_gpu else ("", None)
    return [row, Row("throughput", "data time", f"{fraction:.1%}", "", f"{fraction:.1%}", goal, met)]
