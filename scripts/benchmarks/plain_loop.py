"""The yardstick: ResNet-18 trained in a loop as tutorials write it, in float32, and its accuracy after each epoch.

As a program, trains on ROOT/train without 5,000 held-out images, and writes their accuracy after each epoch. Repeat an
interrupted command to resume it after its last epoch.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from harness import MEAN, STD
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

HELD_OUT = 5000
BATCH_SIZE = 128
NORMALIZE = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
AUGMENT = [
    transforms.RandomCrop(32, padding=4),
    transforms.RandomHorizontalFlip(),
    *NORMALIZE,
    transforms.RandomErasing(p=1, scale=(0.06, 0.06), ratio=(1, 1)),
]


def build(total_steps: int) -> tuple[nn.Module, Optimizer, OneCycleLR]:
    """Return a ResNet-18 with a 3x3 stem for ten classes, SGD and OneCycle."""
    net = resnet18(num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return net, optimizer, OneCycleLR(optimizer, max_lr=0.1, total_steps=total_steps)


def train(
    net: nn.Module,
    optimizer: Optimizer,
    schedule: OneCycleLR,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
) -> float:
    """Take a step for each batch of images `(B, 3, 32, 32)`, float32, and labels `(B,)`; return the last loss."""
    for images, labels in batches:
        loss = cross_entropy(net(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


@torch.inference_mode()
def accuracy(net: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device) -> float:
    """Return the fraction of correctly classified images, 0 to 1."""
    net.eval()
    correct = torch.cat([net(images.to(device)).argmax(1).cpu() == labels for images, labels in batches])
    net.train()
    return float(correct.float().mean())


def main() -> None:
    """Train, and write the accuracy after each epoch."""
    parser = argparse.ArgumentParser("plain_loop.py", description=__doc__)
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder with train/CLASS/ of ten classes of 32 px")
    parser.add_argument("--epochs", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--held_out", type=int, default=HELD_OUT, help="number of images (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("plain_loop.json"), help="results (default: %(default)s)")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # cifar_lit, if it is not installed

    import numpy as np

    from cifar_lit.data.sampling import stratified_split
    from cifar_lit.utils.environment import describe
    from cifar_lit.utils.hardware import available_cores, keep_freed_memory

    keep_freed_memory()  # as fit does on CPUs
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = str(options.root / "train")
    augmented = ImageFolder(folder, transforms.Compose(AUGMENT))
    plain = ImageFolder(folder, transforms.Compose(NORMALIZE))
    rest, held_out = stratified_split(np.array(augmented.targets), options.held_out, seed=0)
    workers = {"num_workers": available_cores(), "persistent_workers": True, "pin_memory": device.type == "cuda"}
    loader = DataLoader(Subset(augmented, rest.tolist()), BATCH_SIZE, shuffle=True, drop_last=True, **workers)
    tested = DataLoader(Subset(plain, held_out.tolist()), BATCH_SIZE, **workers)
    torch.manual_seed(0)
    net, optimizer, schedule = build(options.epochs * len(loader))
    net.to(device)
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
    state, results = options.out.with_suffix(".pt"), {**describe(), "epochs": options.epochs, "curve": []}
    if state.exists():
        saved = torch.load(state, weights_only=True)
        if saved["schedule"]["total_steps"] != schedule.total_steps:
            parser.error(f"{state} belongs to a training of another length; use another --out")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        results["curve"] = saved["curve"]
    for epoch in range(len(results["curve"]), options.epochs):
        torch.manual_seed(epoch)  # the same shuffling and augmentation in a resumed run
        start = time.perf_counter()
        train(net, optimizer, schedule, loader, device)
        seconds = time.perf_counter() - start
        results["curve"].append({"held_out_accuracy": accuracy(net, tested, device), "train_seconds": seconds})
        torch.save({name: part.state_dict() for name, part in parts.items()} | {"curve": results["curve"]}, state)
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"epoch {epoch + 1}/{options.epochs}: {results['curve'][-1]}", flush=True)


if __name__ == "__main__":
    main()
