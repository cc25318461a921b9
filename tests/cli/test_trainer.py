"""Arguments of the Trainer that depend on the machine."""

from typing import Any

import pytest
import torch

from cifar_lit.cli.trainer import gpu_indices


@pytest.mark.parametrize(
    ("devices", "indices"), [("auto", [0, 1, 2]), (-1, [0, 1, 2]), (2, [0, 1]), ([2], [2]), ("1,2", [1, 2]), ("x", [])]
)
def test_gpus_in_use(devices: Any, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert gpu_indices(devices) == indices
