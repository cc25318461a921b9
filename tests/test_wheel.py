"""The wheel, installed without the repository, trains from any folder."""

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import cifar_lit
from tests.conftest import BRIEF, ROOT

pytestmark = pytest.mark.slow


def check_output(*command: str | Path, cwd: Path | None = None, path: Path | None = None) -> str:
    """Run a command without the variables that lead to other packages; fail with its output."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "MYPYPATH")}
    if path:
        env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def uv(*args: str | Path) -> None:
    check_output(sys.executable, "-m", "uv", *args, "--offline", "--quiet")


def tracked_files() -> list[str]:
    names = check_output("git", "ls-files", "-z", cwd=ROOT).split("\0")
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution of a clean copy."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    uv("build", source, "--no-build-isolation", "--python", sys.executable, "--out-dir", dist)
    (file,) = dist.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of executables of a fresh environment, which lies in the checkout of another project."""
    project = tmp_path_factory.mktemp("project")
    check_output("git", "init", "--quiet", project)
    author = ("-c", "user.name=x", "-c", "user.email=x")
    check_output("git", *author, "commit", "--quiet", "--allow-empty", "--message=x", cwd=project)
    venv.create(project / ".venv", symlinks=os.name == "posix")
    scripts = project / ".venv" / ("bin" if os.name == "posix" else "Scripts")
    site_packages = check_output(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    # The dependencies are those of this environment. Python ignores the .pth files in folders that a .pth file adds, so
    # this project's own editable installation is not visible.
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site_packages.strip(), "dependencies.pth").write_text("\n".join(folders))
    uv("pip", "install", wheel, "--no-deps", "--python", scripts / "python")
    return scripts


def test_wheel_contains_the_package_and_the_recipes(wheel: Path) -> None:
    expected = {name for name in tracked_files() if name.startswith("cifar_lit/")}
    expected |= {f"cifar_lit/{name}" for name in tracked_files() if name.startswith("configs/")}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    assert {"cifar_lit/py.typed", "cifar_lit/configs/demo.yaml", "cifar_lit/report/templates/page.html"} <= expected


def test_installed_package_is_imported_and_listed(scripts: Path, tmp_path: Path) -> None:
    python = scripts / "python"
    file = check_output(python, "-c", "import cifar_lit; print(cifar_lit.__file__)", cwd=tmp_path)
    assert file.startswith(str(scripts.parent))
    listed = check_output(python, "-m", "cifar_lit", cwd=tmp_path)
    assert "  fit " in listed and "demo" in listed
    assert check_output(scripts / "cifar-lit", cwd=tmp_path) == listed
    assert check_output(scripts / "cifar-lit", "--version", cwd=tmp_path) == f"cifar_lit {cifar_lit.__version__}\n"


def test_demo_trains_in_two_processes(scripts: Path, tmp_path: Path) -> None:
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=16"]
    options = ["--config", "demo", *BRIEF[2:], *two]
    output = check_output(scripts / "cifar-lit", "fit", *options, cwd=tmp_path, path=scripts)
    (run,) = (tmp_path / "lightning_logs" / "demo").iterdir()
    assert (run / "report" / "index.html").is_file()
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["processes"] == 2, output
    assert provenance["command"] == shlex.join(["python", "-m", "cifar_lit.fit", *options])
    assert provenance["commit"] is None  # not that of the project around the environment
    assert provenance["cifar_lit"] == cifar_lit.__version__


def test_type_checker_reads_the_annotations(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text("import cifar_lit\n\nreveal_type(cifar_lit.__version__)\n")
    others = "[mypy]\nfollow_imports = skip\n[mypy-cifar_lit.*]\nfollow_imports = normal\n"  # not all of torch
    (tmp_path / "mypy.ini").write_text(others)
    options = ["--strict", "--cache-dir", os.devnull, "--python-executable", str(scripts / "python")]
    assert 'Revealed type is "str"' in check_output(
        sys.executable, "-m", "mypy", *options, "user.py", cwd=tmp_path
    ).replace("builtins.", "")
