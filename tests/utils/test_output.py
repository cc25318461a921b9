import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from cifar_lit.utils.output import drop_missing_backend, print_once, safe_output
from tests.conftest import ROOT


def broken_pipe() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


def closed_terminal() -> TextIO:
    main, terminal = os.openpty()
    os.close(main)
    return open(terminal, "w")


def full_disk() -> TextIO:
    return open("/dev/full", "w")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full, and the error of a closed terminal, are Linux's")
@pytest.mark.parametrize("stream", [broken_pipe, closed_terminal, full_disk])
def test_printing_to_what_is_closed_or_full_is_dropped(
    stream: Callable[[], TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", stream())
    with sys.stdout:  # closing it writes its buffer
        with safe_output():
            print("text", flush=True)
            print("text" * 10_000)
        print("after")


def test_characters_that_the_encoding_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    with safe_output():
        print("caf\N{LATIN SMALL LETTER E WITH ACUTE}", sys.stdout.encoding)
    assert content.getvalue() == b"caf\\xe9 ascii\n"


@pytest.mark.skipif(os.name != "posix", reason="closes file descriptors with the shell")
def test_no_file_takes_the_place_of_closed_standard_files(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from cifar_lit.utils.output import safe_output, write_stderr
        with safe_output():
            file = os.open("file", os.O_CREAT | os.O_RDWR)
            print("text", file=sys.stderr, flush=True)
            print("text", sys.stdout.isatty())
            write_stderr("text")
            os._exit(os.fstat(file).st_size)
    """
    shell = '"$0" -c "$1" 0<&- 1>&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["sh", "-c", shell, sys.executable, code], cwd=tmp_path, env=environment).returncode == 0


@pytest.mark.parametrize("backend", ["module://no_such_notebook.backend_inline", "module://io", "agg", None])
def test_missing_matplotlib_backend_of_a_notebook_is_ignored(
    backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)
    if backend:
        monkeypatch.setenv("MPLBACKEND", backend)
    drop_missing_backend()
    assert os.environ.get("MPLBACKEND") == (None if backend and "no_such" in backend else backend)


def test_only_the_first_process_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        print_once(f"from {rank}")
    assert capsys.readouterr().err == "from 0\n"
