"""When torch.compile is worth its time, and why it failed."""

import torch
from pytorch_lightning.utilities import rank_zero_warn

from cifar_lit.utils.hardware import bfloat16_unit

MIN_STEPS = 1000


def failure(error: RuntimeError) -> str | None:
    """Return the message for an error of torch.compile, such as a missing compiler; None for other errors."""
    if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
        return None
    reason = " ".join(str(error).partition("\n\n")[0].split())
    return f"model.compile: {reason}; install what is missing, or use --model.compile false"


def warn_if_slower(device: torch.device, steps: float) -> None:
    """Warn if a compiled network trains no faster on a device, or compiling takes longer than it saves in the steps."""
    if device.type == "cpu" and bfloat16_unit() != "AMX":
        rank_zero_warn("model.compile does not speed up training on a CPU without AMX, see docs/benchmarks.md")
    elif steps < MIN_STEPS:
        rank_zero_warn(f"model.compile takes a minute or so, more than it saves in {steps:.0f} steps")
