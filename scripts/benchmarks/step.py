"""One training step of ResNet-18: our defaults for this device compared with a plain float32 loop."""

import time
from collections.abc import Callable

import torch
from harness import MEAN, STD, Row, Settings, alternate, faster
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from cifar_lit.models.resnet import ResNet18, smallest_strided
from cifar_lit.utils.hardware import bfloat16_unit, choose_device, choose_precision


def measure(settings: Settings) -> list[Row]:
    """Train on one batch in memory, repeatedly."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = 8 if settings.quick else 512 if device.type == "cuda" else 128
    images = torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    floats = images.permute(0, 3, 1, 2).contiguous().float() / 255

    plain = resnet18(num_classes=10)
    plain.conv1, plain.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    precision, reason = choose_precision(choose_device("auto"), smallest_strided(32, "cifar"))
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)

    def trainer(net: nn.Module, images: torch.Tensor, mixed: torch.dtype | None, fused: bool) -> Callable[[], float]:
        net.to(device).train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=fused)
        steps = 20 if device.type == "cuda" else 1

        def train() -> float:
            start = time.perf_counter()
            for _ in range(steps):
                with torch.autocast(device.type, mixed, enabled=mixed is not None):
                    loss = cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            float(loss.detach())  # waits for the device
            return (time.perf_counter() - start) / steps

        return train

    contenders = {
        "plain": trainer(plain, floats, None, False),
        "": trainer(ResNet18(10, MEAN, STD), images, dtype, True),
    }
    if not settings.quick:
        compiled = ResNet18(10, MEAN, STD)
        compiled.compile()
        contenders[", compiled"] = trainer(compiled, images, dtype, True)
    times = alternate(0 if settings.quick else 3, **contenders)
    peer = times.pop("plain")
    must, aim = (3.3, 4) if bfloat16_unit() == "AMX" else (None, None)
    what = f"ResNet-18, batch {batch}, {precision}, {reason}"
    return [
        faster("step", f"{what}{variant}", ours, peer, batch, "plain float32 loop", must, aim)
        for variant, ours in times.items()
    ]
