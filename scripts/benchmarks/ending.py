"""The end of fitting: test pass, errors, Grad-CAM and all images, against the bare forward pass over the test set."""

import os
import time

import numpy as np
import torch
from cifar_lit.report.analysis import Analysis
from harness import Row, Settings, Times, alternate, quiet, slower_by

from cifar_lit import callbacks
from cifar_lit.callbacks.report import CombinedReport
from cifar_lit.cli.options import FitCLI

PICTURES = (callbacks.SampleImages, callbacks.MisclassifiedImages, callbacks.GradCAMGrid)


def measure(settings: Settings) -> list[Row]:
    """Make the parts of the report of a network that was trained for a moment."""
    here = os.getcwd()
    os.chdir(settings.scratch)
    try:
        with quiet():
            cli = FitCLI(
                [
                    *("--data.source", "folder", "--data.root", str(settings.root), "--data.val_size", "0"),
                    *("--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
                    *("--data.cache_dir", str(settings.scratch.parent / "cache")),
                    *("--gradcam.layers", "[layer1,layer2,layer3,layer4]", "--misclassified.k", "10"),
                    *("--model.stem", "imagenet") * settings.quick,
                ]
            )
    finally:
        os.chdir(here)
    data, device = cli.datamodule, cli.trainer.strategy.root_device
    if settings.quick:
        cli.trainer.limit_test_batches = 1
    context = cli.trainer.precision_plugin.forward_context
    (report,) = (one for one in cli.trainer.callbacks if isinstance(one, CombinedReport))
    net = cli.model.net.to(device).eval()

    def forward() -> None:
        images = data.splits.test.images[: 256 if settings.quick else None]
        with torch.inference_mode(), context():
            for start in range(0, len(images), 256):
                net(torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).to(device)).argmax(1).cpu()

    seconds: dict[str, float] = {}

    def ending() -> None:
        analysis = Analysis(cli.trainer, data, net, "some weights", [], settings.scratch)
        for part in report.parts:
            now = time.perf_counter()
            part.make(analysis, settings.scratch / "report")
            seconds[type(part).__name__] = time.perf_counter() - now
        assert not analysis.problems, analysis.problems

    with quiet():
        times = alternate(0, forward=forward, everything=ending)
    # The pass over the test set is in the first part that asks for it.
    errors = Times([sum(seconds[part.__name__] for part in PICTURES)])
    count = len(data.splits.test)
    against = f"bare forward pass over {count:,} test images"
    parts = ", ".join(f"{name} {took:.1f}" for name, took in seconds.items())
    return [
        slower_by("ending", "test pass, errors, Grad-CAM", errors, times["forward"], against, 10, 4),
        slower_by("ending", f"the whole report ({parts})", times["everything"], times["forward"], against, None, None),
    ]
