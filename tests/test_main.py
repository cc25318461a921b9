"""`python -m cifar_lit` lists the commands and runs them."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import cifar_lit
from cifar_lit.__main__ import COMMANDS, main


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_commands_and_recipes_are_listed(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(args)
    output = capsys.readouterr().out
    for name in COMMANDS:
        assert len([line for line in output.splitlines() if line.startswith(f"  {name} ")]) == 1
    assert "  compare   Compare finished runs\n" in output
    assert "demo" in output and "onecycle" in output


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"cifar_lit {cifar_lit.__version__}\n"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("evalute", "; did you mean cifar-lit evaluate?"),
        ("--config", "; did you mean cifar-lit fit --config?"),
        ("qqqq", ""),
        ("utils", ""),
    ],
)
def test_unknown_command_is_refused(name: str, suggestion: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "x"])
    assert stopped.value.code == 2
    commands = "fit, evaluate, explain, predict, export, demo, compare"
    assert capsys.readouterr().err == f"error: {name}: no such command; the commands are {commands}{suggestion}\n"


def test_package_is_found_beside_a_clone(tmp_path: Path) -> None:
    (tmp_path / "cifar_lit" / "data").mkdir(parents=True)  # folders of a clone, not of the package
    code = "import cifar_lit.data.augment; print(cifar_lit.__version__)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_listing_does_not_import_torch() -> None:
    code = "import sys; from cifar_lit.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("name", ["explain", "compare"])
def test_help_and_usage_errors_do_not_import_torch(name: str) -> None:
    code = f"""if True:
        import sys
        from cifar_lit.{name} import main
        for args, code in (["--help"], 0), ([], 2):
            try:
                main(args)
            except SystemExit as stopped:
                assert stopped.code == code
        sys.exit("torch" in sys.modules)
    """
    environment = {**os.environ, "MPLBACKEND": "module://no_such_notebook.backend_inline"}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_command_runs_as_its_module_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(sys, "argv", ["pytest", "mine"])
    monkeypatch.setattr(runpy, "run_module", lambda *args, **options: started.append((args, options, sys.argv[1:])))
    main([name, "two words", ""])
    assert started == [((f"cifar_lit.{name}",), {"run_name": "__main__", "alter_sys": True}, ["two words", ""])]
    assert importlib.util.find_spec(f"cifar_lit.{name}")
    assert sys.argv == ["pytest", "mine"]


@pytest.mark.slow
def test_exit_code_and_arguments_pass_through(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cifar_lit", "explain", "x", "two words.png"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: two words.png: no such image")
