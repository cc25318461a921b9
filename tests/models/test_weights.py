import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lit.models import weights
from cifar_lit.training.checkpointing import AtomicCheckpointIO
from cifar_lit.utils import files
from cifar_lit.utils.errors import UsageError


def save(path: Path, number: int) -> Path:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"weights": torch.full((1000,), float(number))}}, path)
    return path


class FullDisk:
    """A file on a disk that is full after 100 bytes."""

    def __init__(self, *args: Any, **_: Any) -> None:
        self.file = open(*args)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: Any) -> None:
        self.file.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "checkpoints" / "last.ckpt", 1)
    monkeypatch.setattr(files, "open", FullDisk, raising=False)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        save(path, 2)
    monkeypatch.undo()
    assert weights.read(path)["state_dict"]["weights"][0] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("position", [0.3, 0.5, 0.9])
def test_single_wrong_bit_is_found_and_a_valid_checkpoint_named(position: float, tmp_path: Path) -> None:
    valid, last = save(tmp_path / "best.ckpt", 1), save(tmp_path / "last.ckpt", 2)
    content = bytearray(last.read_bytes())
    start = content.index(torch.full((1000,), 2.0).numpy().tobytes())
    content[start + int(4000 * position)] ^= 1
    last.write_bytes(content)
    torch.load(last, weights_only=True)  # does not notice
    with pytest.raises(UsageError, match=r"last\.ckpt: the file is damaged .*checksum.*best\.ckpt"):
        weights.read(last)
    valid.write_bytes(b"")
    with pytest.raises(UsageError, match="use another one"):
        weights.read(last)


def test_best_checkpoint_of_a_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--model\.weights .*contains no checkpoints/best\.ckpt"):
        weights.find(str(tmp_path), "--model.weights")
    last = save(tmp_path / "checkpoints" / "last.ckpt", 1)
    assert weights.find(str(tmp_path)) == last and weights.find(str(last)) == last
    best = save(tmp_path / "checkpoints" / "best.ckpt", 1)
    assert weights.find(str(tmp_path)) == best
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.find("~") == best
    with pytest.raises(UsageError, match=r"this folder contains .*best\.ckpt"):
        weights.find(str(best.with_name("other.ckpt")))


def test_weights_that_are_not_finite_are_not_loaded(tmp_path: Path) -> None:
    save(tmp_path / "best.ckpt", 1)
    last = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weights": torch.tensor([1.0, torch.nan]), "steps": torch.tensor(1)}}, last)
    with pytest.raises(UsageError, match=r"last\.ckpt: its weights are not finite.*best\.ckpt"):
        weights.read(last)
