"""README.md, CONTRIBUTING.md and docs/: their links, options and numbers are correct."""

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from cifar_lit.fit import main
from tests.conftest import QUICK, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_OTHER_PROGRAMS = {
    "--logdir",
    "--max-restarts",
    "--nnodes",
    "--nproc-per-node",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--shm-size",
    # SLURM's
    *("--nodes", "--ntasks-per-node", "--gpus", "--gpus-per-node", "--time", "--signal", "--open-mode"),
    *("--requeue", "--no-requeue"),
}
FILE_SUFFIXES = {"ckpt", "csv", "json", "md", "onnx", "png", "pt", "py", "safetensors"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def options() -> set[str]:
    """The options of `fit`, of the other commands, and of the scripts."""
    text = StringIO()
    with redirect_stdout(text), pytest.raises(SystemExit, match="0"):
        main(["--help"])
    found = set(re.findall(r"^  (?:-\w.*?, )?(--[\w.]+)", text.getvalue(), re.MULTILINE))
    sources = [*(ROOT / "cifar_lit").rglob("*.py"), *(ROOT / "scripts").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    for file in sources:
        found |= set(re.findall(r'add_?(?:argument|option)\(\s*"(--[\w-]+)"', file.read_text(encoding="utf-8")))
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_options_exist(page: Path, options: set[str]) -> None:
    text = page.read_text(encoding="utf-8")
    given = {option.rstrip(".-") for option in re.findall(r"(?<![\w-])--[A-Za-z][\w.-]*", text)}
    given = {re.sub(r"\.init_args\..*|(?<=trainer\.callbacks)\..*", "", option) for option in given}
    groups = {option[2:].partition(".")[0] for option in options if "." in option}
    for code in re.findall(r"`([^`\n]+)`", text):
        for name in re.findall(rf"(?<![\w./-])(?:{'|'.join(groups)})\.[a-z_.]+", code):
            if name.rpartition(".")[2] not in FILE_SUFFIXES:
                given.add("--" + re.sub(r"\.init_args\..*", "", name))
    assert given - options - OF_OTHER_PROGRAMS == set()


@each_page
def test_named_tests_exist(page: Path) -> None:
    existing = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+\.py\b", page.read_text(encoding="utf-8"))) <= existing


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_readme_has_measured_accuracies_only() -> None:
    readme, results = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))
    accuracies = re.findall(r"\d+\.\d+%", readme)
    assert accuracies and [accuracy for accuracy in accuracies if accuracy not in results] == []


@each_page
def test_imports_of_examples_exist(page: Path) -> None:
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^(?:from [\w.]+ )?import .+", example, re.MULTILINE):
            exec(line, {})


@each_page
def test_removed_files_are_not_mentioned(page: Path) -> None:
    assert "metrics.csv" not in page.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cifar_lit.fit.main", lambda args: main([*args, *QUICK[2:]]))  # a few steps
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    namespace: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec("".join(line for line in cell["source"] if not line.startswith("%")), namespace)
    assert len(namespace["explanations"].overlay_images()) == 3  # type: ignore[attr-defined]
