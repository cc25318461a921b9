"""scripts/setup, and scripts/fit and scripts/test which call it, with a stand-in for the installer.

Each test has a small copy of the project of its own, and a `uv` first on PATH that installs nothing: it notes
how it was called and makes a `.venv/bin/python` that prints what it is asked to run.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE_UV = """#!/bin/sh
[ "$1" = --version ] && exit
echo "$*" >>"$UV_CALLS"
case "$*" in
    *" venv "*)
        for venv in "$@"; do :; done
        mkdir -p "$venv/bin"
        cp "$FAKE_PYTHON" "$venv/bin/python"
        ;;
    *--requirements*) eval "$DURING_INSTALL" ;;
esac
"""

FAKE_PYTHON = """#!/bin/sh
echo "in $PWD"
printf '<%s>\\n' "$@"
exit "${EXIT_CODE:-0}"
"""


class Project:
    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "my project"
        (self.root / "tests").mkdir(parents=True)
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        (self.root / "requirements.txt").write_text("torch==1\n")
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.calls = tmp_path / "uv-calls"
        tools = tmp_path / "tools"
        tools.mkdir()
        for name, text in (("uv", FAKE_UV), ("python", FAKE_PYTHON)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.env = {
            "PATH": f"{tools}:/usr/bin:/bin",
            "CIFAR_LIT_PYTHON": sys.executable,
            "UV_CALLS": str(self.calls),
            "FAKE_PYTHON": str(tools / "python"),
        }

    def start(self, script: str | Path, *args: str, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "scripts" / script, *args],
            cwd=cwd or self.root,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(
        self, script: str | Path, *args: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(script, *args, cwd=cwd, **env)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def installs(self) -> int:
        """Counts how often the pinned packages have been installed so far."""
        return self.calls.read_text().count("--requirements") if self.calls.exists() else 0

    def kept(self) -> Path:
        """Leaves a file in the environment, which is there until the environment is made anew."""
        file = self.root / ".venv" / "kept"
        file.touch()
        return file


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_first_call_installs_and_says_so_and_the_second_starts_at_once(project: Project) -> None:
    first = project.call("fit", "--help")
    assert first.returncode == 0
    assert first.stdout.splitlines()[1:] == ["<-m>", "<cifar_lit.fit>", "<--help>"]
    assert "cifar_lit: installing the pinned packages" in first.stderr
    assert all(line.startswith("cifar_lit: ") for line in first.stderr.splitlines())
    venv, packages, itself = project.calls.read_text().splitlines()
    assert f"--python {os.path.realpath(sys.executable)} {project.root}/.venv" in venv
    assert f"--requirements {project.root}/requirements.txt" in packages
    assert f"--editable {project.root}" in itself

    second = project.call("fit", "--help")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert project.installs() == 1


def test_a_named_python_need_not_be_named_again(project: Project) -> None:
    project.call("setup")
    del project.env["CIFAR_LIT_PYTHON"]
    assert project.call("setup").stderr == ""
    assert project.installs() == 1


@pytest.mark.parametrize("file", ["requirements.txt", "pyproject.toml"])
def test_changed_pins_or_project_are_installed_into_the_same_environment(project: Project, file: str) -> None:
    project.call("setup")
    kept = project.kept()
    (project.root / file).write_text("changed\n")
    assert "changed: updating" in project.call("setup").stderr
    assert project.installs() == 2
    assert kept.exists()
    assert project.call("setup").stderr == ""


def test_a_change_made_during_the_installation_is_installed_next_time(project: Project) -> None:
    project.call("setup", DURING_INSTALL="echo torch==2 >requirements.txt")
    project.call("setup")
    assert project.installs() == 2


def test_a_moved_project_is_set_up_anew(project: Project) -> None:
    project.call("setup")
    project.kept()
    project.root = project.root.rename(project.root.with_name("moved"))
    assert project.call("fit").returncode == 0
    assert project.installs() == 2
    assert not (project.root / ".venv" / "kept").exists()


def test_another_named_python_makes_the_environment_anew(project: Project, tmp_path: Path) -> None:
    project.call("setup")
    kept = project.kept()
    link = tmp_path / "other-python"
    link.symlink_to(os.path.realpath(sys.executable))
    project.call("setup", CIFAR_LIT_PYTHON=str(link))
    assert project.installs() == 2
    assert not kept.exists()


def test_an_environment_whose_python_is_gone_is_made_anew(project: Project) -> None:
    project.call("setup")
    python = project.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project.root / "removed" / "python3")
    assert project.call("fit").returncode == 0
    assert project.installs() == 2


def test_a_killed_installer_is_reported_and_repaired_by_the_next_call(project: Project) -> None:
    failed = project.call("fit", DURING_INSTALL="echo some output; kill -9 $$")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "Could not install the pinned packages" in failed.stderr
    assert "\nsome output\n" in failed.stderr

    kept = project.kept()
    assert project.call("fit").returncode == 0
    assert project.installs() == 2
    assert not kept.exists()


def test_a_set_up_that_was_killed_as_a_whole_is_repaired_by_the_next_call(project: Project, tmp_path: Path) -> None:
    killed = project.start("fit", DURING_INSTALL=f"touch '{tmp_path}/started'; sleep 60")
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    assert project.call("fit").returncode == 0
    assert project.installs() == 2


def test_of_two_calls_at_once_one_installs_and_the_other_waits(project: Project) -> None:
    both = [project.start("fit", name, DURING_INSTALL="sleep 1") for name in ("one", "two")]
    outputs = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [out.splitlines()[-1] for out, _ in outputs] == ["<one>", "<two>"]
    assert project.installs() == 1
    assert sum("waiting for another set-up" in err for _, err in outputs) == 1


def test_without_network_it_says_so_in_a_line(project: Project) -> None:
    failed = project.call("fit", DURING_INSTALL="seq 100; echo '  Caused by: dns error'; exit 2")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("cifar_lit: could not reach the package index.")
    assert len(failed.stderr.splitlines()) < 6


def test_only_big_downloads_are_shown(project: Project) -> None:
    output = "Downloading numpy (16.1MiB)\nDownloading torch (514.2MiB)\n Downloaded numpy\n Downloaded torch"
    shown = project.call("setup", DURING_INSTALL=f"echo '{output}'").stderr
    assert "cifar_lit:   downloading torch (514.2MiB)\ncifar_lit:   downloaded torch\n" in shown
    assert "numpy" not in shown


def test_an_unsuitable_python_is_named(project: Project) -> None:
    failed = project.call("fit", CIFAR_LIT_PYTHON="/no/such/python")
    assert failed.returncode == 1
    assert "CIFAR_LIT_PYTHON names '/no/such/python'" in failed.stderr


def test_a_python_without_venv_is_named_with_the_remedy(project: Project, tmp_path: Path) -> None:
    (tmp_path / "tools" / "uv").write_text("#!/bin/sh\nexit 1\n")
    python = tmp_path / "debian" / "python3"
    python.parent.mkdir()
    # Reports itself as the interpreter, as its own symlinks would be resolved to the real one.
    python.write_text(
        f"#!/bin/sh\ncase $* in *ensurepip*) exit 1 ;; *realpath*) echo '{python}' ;;"
        f" *) exec '{sys.executable}' \"$@\" ;; esac\n"
    )
    python.chmod(0o755)
    failed = project.call("fit", CIFAR_LIT_PYTHON=str(python))
    assert failed.returncode == 1
    assert f"{python} cannot make virtual environments" in failed.stderr
    assert "apt install python3-venv" in failed.stderr


def test_bytecode_is_compiled_only_where_python_would_not_keep_it(project: Project) -> None:
    assert "compiling" not in project.call("setup").stderr
    shutil.rmtree(project.root / ".venv")
    assert "compiling" in project.call("setup", PYTHONDONTWRITEBYTECODE="1").stderr


@pytest.mark.parametrize("script", ["fit", "test"])
def test_arguments_folder_and_exit_code_pass_through(project: Project, tmp_path: Path, script: str) -> None:
    project.call("setup")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    args = ["--name", "two words", "", "*", "it's", 'a "b"', "$HOME"]
    result = project.call(script, *args, cwd=elsewhere, EXIT_CODE="7")
    assert result.returncode == 7
    lines = result.stdout.splitlines()
    assert lines[0] == f"in {elsewhere}"
    words = [f"<{arg}>" for arg in args]
    start = lines.index("<--name>")
    assert lines[start : start + len(args)] == words


def test_through_links_from_any_folder(project: Project, tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "absolute").symlink_to(project.root / "scripts" / "fit")
    (bin_folder / "relative").symlink_to("../my project/scripts/fit")
    (bin_folder / "to link").symlink_to("relative")
    (tmp_path / "linked scripts").symlink_to(project.root / "scripts")
    for script in ("bin/absolute", "bin/relative", "bin/to link", "linked scripts/fit"):
        result = project.call(tmp_path / script, script, cwd=bin_folder)
        assert (result.returncode, result.stdout.splitlines()[-1]) == (0, f"<{script}>")
    assert project.installs() == 1
    assert (project.root / ".venv").is_dir()
    # A file name alone, found on PATH or given to sh.
    result = subprocess.run(
        ["sh", "fit", "x"],
        cwd=project.root / "scripts",
        env={**project.env, "CDPATH": "/"},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr, result.stdout.splitlines()[-1]) == (0, "", "<x>")


def test_tests_are_the_projects_own_unless_a_path_is_given(project: Project, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").touch()
    (tmp_path / "setup").touch()

    def pytest_args(*args: str) -> list[str]:
        return project.call("test", *args, cwd=tmp_path).stdout.splitlines()[1:]

    common = [
        "<-m>",
        "<pytest>",
        "<-c>",
        f"<{project.root}/pyproject.toml>",
        "<--rootdir>",
        f"<{project.root}>",
    ]
    two = ["<-n>", "<2>", "<--dist>", "<loadfile>", "<--no-loadscope-reorder>"]  # processes
    own = f"<{project.root}/tests>"
    assert pytest_args() == [*common, *two, own]
    assert pytest_args("-x", "-k", "setup") == [*common, *two, "<-x>", "<-k>", "<setup>", own]
    assert pytest_args("test_mine.py::test_a") == [*common, "<test_mine.py::test_a>"]
