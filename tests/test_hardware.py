import pytest
import torch

from cifar_lit.hardware import choose_precision, describe


@pytest.mark.parametrize(
    ("capability", "precision"), [((9, 0), "bf16-mixed"), ((8, 0), "bf16-mixed"), ((7, 5), "16-mixed")]
)
def test_precision_of_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_precision("auto")[0] == choose_precision("gpu")[0] == precision


@pytest.mark.parametrize(("amx", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_of_cpus(monkeypatch: pytest.MonkeyPatch, amx: bool, precision: str) -> None:
    monkeypatch.setattr("cifar_lit.hardware.has_amx", lambda: amx)
    assert choose_precision("cpu")[0] == precision


def test_a_run_can_be_repeated_from_its_notes() -> None:
    notes = describe()
    assert notes["torch"] == torch.__version__.split("+")[0]
    assert notes["cpu"] and notes["threads"]
