import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import Timeout

from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write, atomic_write_text, file_lock, new_folder, plain_cell, safe_cell


def test_file_is_replaced_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
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
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_locked_file(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock"), pytest.raises(Timeout), file_lock(tmp_path / "lock", timeout_s=0):
        pass
    with file_lock(tmp_path / "lock", timeout_s=0):
        pass


@pytest.mark.skipif(os.name != "posix", reason="replaces flock")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    if code == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(code)), file_lock(tmp_path / "lock"):
            pass
    else:
        with pytest.warns(UserWarning, match=rf"{tmp_path} cannot be locked"), file_lock(tmp_path / "lock"):
            pass


def test_content_is_flushed_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def record(name: str) -> None:
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: (calls.append(name), original(*args))[1])

    record("fsync")
    record("replace")
    atomic_write_text(tmp_path / "a", "text")
    assert calls == ["fsync", "replace", "fsync"]  # content, name, folder


def test_new_folder_is_empty(tmp_path: Path) -> None:
    (tmp_path / "evaluation_1").mkdir()
    assert new_folder(None, "evaluation", tmp_path) == tmp_path / "evaluation_2"
    assert new_folder(str(tmp_path / "evaluation_1"), "evaluation") == tmp_path / "evaluation_1"
    with pytest.raises(UsageError, match="already exists"):
        new_folder(str(tmp_path), "evaluation")


def test_simultaneous_commands_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: new_folder(None, "explain", tmp_path), range(40)))
    assert sorted(folders) == sorted(tmp_path / f"explain_{n}" for n in range(1, 41))


@pytest.mark.parametrize("name", ["=1+2", "+1+2", "-x", "@SUM(A1)", "\tx", "'=x", "cat", "a=b", ""])
def test_cells_are_escaped_and_restored(name: str) -> None:
    cell = safe_cell(name)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert plain_cell(cell) == name
    assert safe_cell("-0.25") == "-0.25" and safe_cell(-3) == -3
