"""Files are whole or not there, and a damaged checkpoint is named."""

import csv
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lit.training import checkpoint_files
from cifar_lit.training.checkpoint_files import AtomicCheckpointIO
from cifar_lit.training.loggers import ResumableCSVLogger
from cifar_lit.utils import files
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write, atomic_write_text, plain_cell, safe_cell


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    atomic_write_text(path, "old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write("ne")
        file.flush()
        assert path.read_text() == "old"
        raise KeyError
    assert path.read_text() == "old"
    with atomic_write(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["figures.csv"]


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def note(name: str) -> None:
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: (done.append(name), real(*args))[1])

    note("fsync")
    note("replace")
    atomic_write_text(tmp_path / "a", "text")
    assert done == ["fsync", "replace", "fsync"]  # content, name, folder


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "step": 1}, path)

    class Full:
        def __init__(self, *args: Any, **_: Any) -> None:
            self.file = open(*args)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: Any) -> None:
            self.file.write(content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "open", Full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "step": 2}, path)
    monkeypatch.undo()
    assert checkpoint_files.read(path)["step"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def checkpoint(path: Path, number: int) -> Path:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"weights": torch.full((1000,), float(number))}}, path)
    return path


@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_a_single_wrong_bit_is_found_and_the_next_good_checkpoint_named(place: float, tmp_path: Path) -> None:
    good, last = checkpoint(tmp_path / "best.ckpt", 1), checkpoint(tmp_path / "last.ckpt", 2)
    content = bytearray(last.read_bytes())
    weights = content.index(torch.full((1000,), 2.0).numpy().tobytes())
    content[weights + int(4000 * place)] ^= 1
    last.write_bytes(content)
    torch.load(last, weights_only=True)  # says nothing
    with pytest.raises(
        UsageError, match=r"last\.ckpt: the file is damaged .*checksum.* the next good one is .*best\.ckpt"
    ):
        checkpoint_files.read(last)
    good.write_bytes(b"")
    with pytest.raises(UsageError, match="give another one"):
        checkpoint_files.read(last)


def test_metrics_can_be_read_at_any_instant_and_are_gone_on_with(tmp_path: Path) -> None:
    def rows() -> list[dict[str, str]]:
        with open(tmp_path / "run" / "version_0" / "metrics.csv", newline="", encoding="utf-8") as file:
            return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]

    logger = ResumableCSVLogger(str(tmp_path), "run", 0)
    for step in range(4):
        logger.log_metrics({"lr": step / 2}, step)
    logger.save()
    logger.log_metrics({"loss": 1.5}, 3)  # a new column
    logger.save()
    assert rows()[2:] == [{"lr": "1.0", "step": "2"}, {"lr": "1.5", "step": "3"}, {"loss": "1.5", "step": "3"}]
    again = ResumableCSVLogger(str(tmp_path), "run", 0, before_step=2)
    again.log_metrics({"lr": 7.0}, 2)
    again.save()
    assert [row["lr"] for row in rows()] == ["0.0", "0.5", "7.0"]


@pytest.mark.parametrize("name", ["=1+2", "+1+2", "-x", "@SUM(A1)", "\tx", "'=x", "cat", "a=b", ""])
def test_no_cell_is_a_formula_and_its_text_comes_back(name: str) -> None:
    cell = safe_cell(name)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert plain_cell(cell) == name
    assert safe_cell("-0.25") == "-0.25" and safe_cell(-3) == -3
