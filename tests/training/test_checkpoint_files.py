import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lit.training import checkpoint_files
from cifar_lit.training.checkpoint_files import AtomicCheckpointIO
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
    assert checkpoint_files.read(path)["state_dict"]["weights"][0] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("position", [0.3, 0.5, 0.9])
def test_single_wrong_bit_is_found_and_a_valid_checkpoint_named(position: float, tmp_path: Path) -> None:
    valid, last = save(tmp_path / "best.ckpt", 1), save(tmp_path / "last.ckpt", 2)
    content = bytearray(last.read_bytes())
    weights = content.index(torch.full((1000,), 2.0).numpy().tobytes())
    content[weights + int(4000 * position)] ^= 1
    last.write_bytes(content)
    torch.load(last, weights_only=True)  # does not notice
    with pytest.raises(UsageError, match=r"last\.ckpt: the file is damaged .*checksum.*best\.ckpt"):
        checkpoint_files.read(last)
    valid.write_bytes(b"")
    with pytest.raises(UsageError, match="use another one"):
        checkpoint_files.read(last)


def test_newest_run_with_a_checkpoint_is_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run in"):
        checkpoint_files.find("last", tmp_path)
    older = save(tmp_path / "version_9" / "checkpoints" / "last.ckpt", 1)
    newer = save(tmp_path / "version_10" / "checkpoints" / "best.ckpt", 1)
    assert checkpoint_files.find("last", tmp_path) == older and checkpoint_files.find("best", tmp_path) == newer
    assert checkpoint_files.of_run(str(tmp_path / "version_9")) == older
    with pytest.raises(UsageError, match=r"this folder contains .*best\.ckpt"):
        checkpoint_files.find(str(newer.with_name("last.ckpt")), tmp_path)
