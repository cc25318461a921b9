"""Training from the images on: one epoch of the default recipe against a plain loop with torchvision's transforms."""

import csv
import os
import time

import torch
from harness import Row, Settings, alternate, faster, quiet
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

from cifar_lit.fit import main
from cifar_lit.utils.hardware import available_cores


def measure(settings: Settings) -> list[Row]:
    """Train for an epoch on a GPU, for a few steps on a CPU; workers are started before the clock."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    batch = 8 if settings.quick else 512 if on_gpu else 64
    steps = 2 if settings.quick else 90 if on_gpu else 3
    workers = 16 if on_gpu else available_cores()
    usual = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
            transforms.RandomErasing(p=1, scale=(0.06, 0.06), ratio=(1, 1)),
        ]
    )
    dataset = ImageFolder(str(settings.root / "train"), usual)
    loader = torch.utils.data.DataLoader(
        dataset, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True, pin_memory=on_gpu
    )
    net = resnet18(num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def plain() -> float:
        batches = iter(loader)
        images, labels = next(batches)
        began = time.perf_counter()
        for _ in range(steps):
            loss = cross_entropy(net(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images, labels = next(batches, (images, labels))
        float(loss.detach())
        return time.perf_counter() - began

    waiting = []

    def ours() -> float:
        with quiet():
            main(
                [
                    *("--data.source", "folder", "--data.root", str(settings.root), "--data.val_size", "0"),
                    *("--data.batch_size", str(batch), "--trainer.limit_train_batches", str(steps)),
                    *("--trainer.max_epochs", "2", "--trainer.limit_test_batches", "2"),
                    *("--page.num_cams", "0", "--page.num_road", "0", "--projector.num_images", "0"),
                    *("--trainer.default_root_dir", str(settings.scratch)),
                    *("--data.cache_dir", str(settings.scratch.parent / "cache")),
                    *("--model.stem", "imagenet") * settings.quick,
                ]
            )
        runs = sorted((settings.scratch / "lightning_logs" / "onecycle").glob("version_*"), key=os.path.getctime)
        with open(runs[-1] / "report" / "history.csv", newline="", encoding="utf-8") as file:
            second = list(csv.DictReader(file))[1]  # the first warms up
        waiting.append(float(second["train/data_time_fraction"]))
        return batch * steps / float(second["train/images_per_second"])

    times = alternate(0 if settings.quick or not on_gpu else 3, plain=plain, ours=ours)
    what = f"training from the images on, batch {batch}, {steps} steps"
    against = f"float32 loop, torchvision transforms in {workers} workers"
    row = faster("throughput", what, times["ours"], times["plain"], batch * steps, against, 6 if on_gpu else None)
    share = max(waiting[-3:])
    must = "must 2 %" if on_gpu else ""
    return [
        row,
        Row(
            "throughput", "waiting for data", f"{share:.1%}", "", f"{share:.1%}", must, share < 0.02 if on_gpu else None
        ),
    ]
