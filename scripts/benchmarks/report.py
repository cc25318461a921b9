"""The report at the end of a training, compared with a bare forward pass over the test set."""

import time
from typing import Any

import numpy as np
import torch
from harness import Row, Settings, Times, alternate, quiet, slower_by

from cifar_lit.callbacks import evaluation
from cifar_lit.callbacks.report import find_report
from cifar_lit.cli.options import FitCLI

IMAGE_PARTS = ("SampleImages", "MisclassifiedImages", "GradCAMGrid")


def measure(settings: Settings) -> list[Row]:
    """Report on a network after one training step, and time each part of the report."""
    fewer = ("--model.stem", "imagenet", "--trainer.limit_test_batches", "1", "--report", "quick")
    quick = fewer if settings.quick else ()
    with quiet():
        cli = FitCLI(
            [
                *("--data.source", "folder", "--data.root", str(settings.root), "--data.val_size", "0"),
                *("--data.num_workers", "0", "--data.cache_dir", str(settings.cache), "--trainer.max_steps", "1"),
                *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
                *("--trainer.default_root_dir", str(settings.scratch), "--model.schedule.name", "constant"),
                *("--gradcam.layers", "[layer1,layer2,layer3,layer4]", "--misclassified.k", "10", *quick),
            ]
        )
    images = cli.datamodule.splits.test.images
    device, context = cli.trainer.strategy.root_device, cli.trainer.precision_plugin.forward_context

    def forward() -> None:
        net = cli.model.net.to(device).eval()
        with torch.inference_mode(), context():
            for start in range(0, 256 if settings.quick else len(images), 256):
                net(torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).to(device)).argmax(1).cpu()

    seconds: dict[str, float] = {}
    report = find_report(cli.trainer)
    _time_calls(report, "on_fit_end", seconds, "all")
    _time_calls(evaluation, "predict", seconds, "pass")
    for part in report.parts:
        _time_calls(part, "write", seconds, type(part).__name__)

    def fit_and_report() -> float:
        cli.fit()
        return seconds.pop("all")

    with quiet():
        times = alternate(0, forward=forward, report=fit_and_report)
    image_parts = Times([seconds["final pass, test"] + sum(seconds[name] for name in IMAGE_PARTS)])
    against = f"bare forward pass over {len(images):,} test images"
    parts = ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items())
    return [
        slower_by("report", "test pass, errors, Grad-CAM", image_parts, times["forward"], against, 10, 4),
        slower_by("report", f"the entire report ({parts})", times["report"], times["forward"], against),
    ]


def _time_calls(owner: object, method: str, seconds: dict[str, float], key: str) -> None:
    """Add the time of each call of a function to `seconds`, under `key` or its argument `progress`."""
    original = getattr(owner, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = original(*args, **kwargs)
        name = kwargs.get("progress", key)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    setattr(owner, method, timed)
