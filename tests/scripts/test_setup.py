"""scripts/setup, and scripts/fit and scripts/test which call it, with a fake Python that installs nothing.

Each test has its own small copy of the project.
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

# It stands for the chosen Python and for the one in .venv, which is a link to it. It prints what it is asked to run.
FAKE_PYTHON = f"""#!/bin/sh
case "$*" in
    *"import ensurepip"*) echo "$0" ;;
    *"import fcntl"*) exec '{sys.executable}' "$@" ;;
    *"-m venv"*)
        for venv; do :; done
        rm -rf "$venv"
        mkdir -p "$venv/bin"
        ln -s "$0" "$venv/bin/python"
        ;;
    *"-m pip"*)
        eval "$DURING_PIP"
        ln -s "$FAKE_UV" "$(dirname "$0")/uv"
        ;;
    *)
        echo "in $PWD"
        printf '<%s>\\n' "$@"
        exit "${{EXIT_CODE:-0}}"
        ;;
esac
"""

FAKE_UV = """#!/bin/sh
echo "$*" >>"$UV_CALLS"
case "$*" in *requirements.txt*) eval "$DURING_INSTALL" ;; esac
"""


class Project:
    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "my project"
        (self.root / "tests").mkdir(parents=True)
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        (self.root / "requirements.txt").write_text("torch==1\nuv==1\n")
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.calls = tmp_path / "uv-calls"
        self.python = self.executable(tmp_path / "python", FAKE_PYTHON)
        self.env = {
            "PATH": "/usr/bin:/bin",
            "CIFAR_LIT_PYTHON": str(self.python),
            "FAKE_UV": str(self.executable(tmp_path / "uv", FAKE_UV)),
            "UV_CALLS": str(self.calls),
        }

    @staticmethod
    def executable(path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path

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
        """Counts how often the pinned packages have been installed."""
        return self.calls.read_text().count("requirements.txt") if self.calls.exists() else 0

    def marker(self) -> Path:
        """Leaves a file in the environment that exists until the environment is made from scratch."""
        file = self.root / ".venv" / "marker"
        file.touch()
        return file


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_first_call_installs_and_says_so_and_the_second_starts_at_once(project: Project) -> None:
    first = project.call("fit", "--help")
    assert first.returncode == 0
    assert first.stdout.splitlines()[1:] == ["<-m>", "<cifar_lit.fit>", "<--help>"]
    assert "cifar_lit: setting up" in first.stderr
    packages, itself = project.calls.read_text().splitlines()
    assert f"--python {project.root}/.venv" in packages
    assert "--editable ." in itself

    second = project.call("fit", "--help")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert project.installs() == 1


@pytest.mark.parametrize("file", ["requirements.txt", "pyproject.toml"])
def test_changed_file_is_installed_into_the_same_environment(project: Project, file: str) -> None:
    project.call("setup")
    marker = project.marker()
    (project.root / file).write_text("uv==2\n")
    assert "has changed: updating" in project.call("setup").stderr
    assert project.installs() == 2
    assert marker.exists()
    assert project.call("setup").stderr == ""


def test_change_during_the_installation_is_installed_by_the_next_call(project: Project) -> None:
    project.call("setup", DURING_INSTALL="echo torch==2 >>requirements.txt")
    project.call("setup")
    assert project.installs() == 2


def test_moved_project_is_set_up_again(project: Project) -> None:
    project.call("setup")
    project.marker()
    project.root = project.root.rename(project.root.with_name("moved"))
    assert project.call("fit").returncode == 0
    assert project.installs() == 2
    assert not (project.root / ".venv" / "marker").exists()


def test_removed_python_is_set_up_again(project: Project) -> None:
    project.call("setup")
    python = project.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project.root / "removed" / "python3")
    assert project.call("fit").returncode == 0
    assert project.installs() == 2


def test_chosen_python_stays_until_another_is_chosen(project: Project, tmp_path: Path) -> None:
    project.call("setup")
    marker = project.marker()
    assert project.call("setup", CIFAR_LIT_PYTHON="").stderr == ""
    assert marker.exists()
    other = project.executable(tmp_path / "other-python", FAKE_PYTHON)
    project.call("setup", CIFAR_LIT_PYTHON=str(other))
    assert not marker.exists()
    assert (project.root / ".venv" / "bin" / "python").samefile(other)


def test_interrupted_installation_is_repaired_by_the_next_call(project: Project, tmp_path: Path) -> None:
    killed = project.start("fit", DURING_INSTALL=f"touch '{tmp_path}/started'; sleep 60")
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    marker = project.marker()
    assert project.call("fit").returncode == 0
    assert project.installs() == 2
    assert not marker.exists()


def test_interrupted_update_is_repaired_by_the_next_call(project: Project) -> None:
    project.call("setup")
    marker = project.marker()
    requirements = project.root / "requirements.txt"
    before = requirements.read_text()
    requirements.write_text("torch==2\nuv==1\n")
    failed = project.call("fit", DURING_INSTALL="echo 'No space left'; exit 2")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "No space left\ncifar_lit: could not install the packages" in failed.stderr

    requirements.write_text(before)  # even then: some packages may already have been replaced
    assert project.call("fit").returncode == 0
    assert not marker.exists()


def test_second_of_two_calls_at_once_waits_for_the_first(project: Project) -> None:
    both = [project.start("fit", name, DURING_INSTALL="sleep 1") for name in ("one", "two")]
    outputs = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [out.splitlines()[-1] for out, _ in outputs] == ["<one>", "<two>"]
    assert project.installs() == 1
    assert sum("waiting for another setup" in err for _, err in outputs) == 1


def test_missing_network_is_one_clear_line(project: Project) -> None:
    retry = "WARNING: Retrying (Retry(total=4)) after connection broken by NewConnectionError"
    failed = project.call("fit", DURING_PIP=f"seq 100; echo '{retry}'; exit 1")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[1:] == [
        "cifar_lit: could not reach the package index. Connect to the network and call again."
    ]


@pytest.mark.parametrize("reason", ["missing", "without venv", "too old"])
def test_unsuitable_python_is_named_with_the_remedy(project: Project, tmp_path: Path, reason: str) -> None:
    python = tmp_path / reason
    if reason == "without venv":
        project.executable(python, "#!/bin/sh\necho \"No module named 'ensurepip'\" >&2\nexit 1\n")
    elif reason == "too old":
        old = "import sys; sys.version_info = (3, 9); exec(sys.argv.pop())"
        project.executable(python, f"#!/bin/sh\nexec '{sys.executable}' -c '{old}' \"$3\"\n")
    failed = project.call("fit", CIFAR_LIT_PYTHON=str(python))
    assert failed.returncode == 1
    assert f"found no Python 3.10 to 3.13 with the venv module (tried: {python})" in failed.stderr
    assert "apt install python3 python3-venv" in failed.stderr


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
    start = lines.index("<--name>")
    assert lines[start : start + len(args)] == [f"<{arg}>" for arg in args]


def test_scripts_work_through_links_and_from_any_folder(project: Project, tmp_path: Path) -> None:
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
    # A file name alone, found on PATH or given to sh.
    result = subprocess.run(
        ["sh", "fit", "x"], cwd=project.root / "scripts", env=project.env, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr, result.stdout.splitlines()[-1]) == (0, "", "<x>")


def test_all_tests_run_unless_a_path_is_given(project: Project, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").touch()
    (tmp_path / "setup").touch()

    def pytest_args(*args: str) -> list[str]:
        return project.call("test", *args, cwd=tmp_path).stdout.splitlines()[1:]

    common = ["<-m>", "<pytest>", "<-c>", f"<{project.root}/pyproject.toml>", "<--rootdir>", f"<{project.root}>"]
    two = ["<-n>", "<2>", "<--dist>", "<loadfile>", "<--no-loadscope-reorder>"]  # processes
    own = f"<{project.root}/tests>"
    assert pytest_args() == [*common, *two, own]
    assert pytest_args("-x", "-k", "setup") == [*common, *two, "<-x>", "<-k>", "<setup>", own]
    assert pytest_args("test_mine.py::test_a") == [*common, "<test_mine.py::test_a>"]
