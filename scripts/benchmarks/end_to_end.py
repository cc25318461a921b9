"""The time from the command to the finished report."""

import time

import torch
from harness import NO_EXTRAS, ROOT, Row, Settings, python


def measure(settings: Settings) -> list[Row]:
    """Run the default recipe on a GPU; nothing on a CPU, where it takes hours. With --quick, run the demo."""
    on_gpu = torch.cuda.is_available() and not settings.quick
    if on_gpu:
        what = "the default recipe, 20 epochs"
        options = ["--data.source", "folder", "--data.root", str(settings.root)]
    elif settings.quick:
        what = "the demo"
        options = ["--config", str(ROOT / "configs" / "demo.yaml"), "--trainer.max_epochs", "1", *NO_EXTRAS]
        options += ["--trainer.limit_train_batches", "2", "--trainer.limit_test_batches", "1"]
    else:
        return []
    options += ["--trainer.default_root_dir", str(settings.scratch), "--data.cache_dir", str(settings.cache)]
    start = time.perf_counter()
    process = python("-m", "cifar_lit.fit", *options)
    seconds = time.perf_counter() - start
    lines = [*process.stdout.splitlines(), *process.stderr.splitlines()]
    accuracy = next(line.split()[2] for line in lines if line.startswith("test acc"))
    ours = f"{seconds:.3g} s, {accuracy} test accuracy"
    goal, met = ("must 90 s, aim 40 s", seconds < 90) if on_gpu else ("", None)
    return [
        Row("end_to_end", f"{what}, command to report", ours, "", f"{seconds:.3g} s", goal, met, {"ours": [seconds]})
    ]
