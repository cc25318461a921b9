"""Recipes are found by name or path, from any folder."""

from pathlib import Path

import pytest

from cifar_lit.cli import recipes
from cifar_lit.fit import main
from cifar_lit.utils.errors import UsageError
from tests.conftest import CONFIGS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_those_of_the_files() -> None:
    assert recipes.names() == sorted(file.stem for file in CONFIGS.iterdir())
    assert recipes.DEFAULT in recipes.names()


@pytest.mark.parametrize("kind", ["nothing", "file", "folder"])
def test_name_is_a_recipe_of_the_package_whatever_the_current_folder_contains(kind: str, folder: Path) -> None:
    if kind == "file":
        (folder / "demo").touch()
        (folder / "demo.yaml").touch()
    elif kind == "folder":
        (folder / "demo").mkdir()
    assert recipes.find("demo") == CONFIGS / "demo.yaml"


@pytest.mark.parametrize("path", ["demo.yaml", "mine.yml", "MINE.YAML", "./demo", "sub/demo", "sub/demo.yaml"])
def test_path_is_a_file(path: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / path).touch()
    assert recipes.find(path).samefile(folder / path)
    assert recipes.find(str(folder / path)).samefile(folder / path)


def test_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "mine.yaml").touch()
    assert recipes.find("~/mine.yaml") == folder / "mine.yaml"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("dmeo", "no such recipe; the recipes are baseline, demo, .*; did you mean --config demo?"),
        ("qqqq", "no such recipe; the recipes are [a-z0-9, _]*$"),
        ("", "no such recipe"),
        ("..", "no such recipe"),
        ("mine", "no such recipe; for the file of this name use --config ./mine; the recipes are"),
        ("demo.yaml", "no such file; the recipes are .*; did you mean --config demo?"),
        ("configs/demo.yaml", "no such file; the recipes are .*; did you mean --config demo?"),
        ("mine/demo.yaml", "no such file"),
        ("sub/", "this is a folder"),
        ("sub.yaml", "this is a folder"),
        ("x" * 999 + ".yaml", "no such file"),
    ],
)
def test_unknown_recipe_is_refused_with_the_names(recipe: str, words: str, folder: Path) -> None:
    (folder / "mine").touch()
    (folder / "sub").mkdir()
    (folder / "sub.yaml").mkdir()
    with pytest.raises(UsageError, match=f"^--config {recipe}: {words}"):
        recipes.find(recipe)


@pytest.mark.parametrize("option", ["--config=demo", "--config demo", "-c demo", "--config onecycle --config demo"])
def test_fit_accepts_names(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*option.split(), "--print_config"])
    assert stopped.value.code == 0
    assert "source: digits" in capsys.readouterr().out


def test_help_explains_names_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert recipes.usage() in text


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("configs/tuned.yaml", "tuned"),
        ("logs/demo/version_3/config.yaml", "demo"),
        ("a b.yaml", "a_b"),
        ("/..yaml", "run"),
        ("/version_0/config.yaml", "run"),
    ],
)
def test_recipe_name_is_a_safe_folder_name(recipe: str, name: str) -> None:
    assert recipes.recipe_name(recipe) == name
