"""Recipes: YAML files of options, found by name (those of this package) or by path."""

import difflib
import os
import re
from pathlib import Path

import yaml

from cifar_lit.utils.errors import UsageError

DEFAULT = "onecycle"
PACKAGE = Path(__file__).parents[1]
# An installed package contains the folder; in a checkout it is next to the package.
FOLDER = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """Return the names of this package's recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(recipe: str) -> Path:
    """Return the file of a recipe.

    Args:
        recipe: A name; or a path, which contains a separator or ends with `.yaml` or `.yml`.

    Raises:
        UsageError: There is no such recipe or file, or it is not valid YAML.
    """
    path = Path(os.path.expanduser(recipe))
    if recipe != path.name or path.suffix.lower() in (".yaml", ".yml"):
        if os.path.isdir(path):
            raise UsageError(f"--config {recipe}: this is a folder, not a file")
        if os.path.exists(path):
            check(path)
            return path
        problem, name = "no such file", path.stem
    elif recipe in names():
        return FOLDER / f"{recipe}.yaml"
    else:
        problem, name = "no such recipe", recipe
        if os.path.isfile(path):
            problem += f"; for the file of this name use --config {os.path.join('.', recipe)}"
    near = difflib.get_close_matches(name, names(), n=1)
    suggestion = f"; did you mean --config {near[0]}?" if near else ""
    raise UsageError(f"--config {recipe}: {problem}; the recipes are {', '.join(names())}{suggestion}")


def check(file: Path) -> None:
    """Refuse a file that is not YAML, or that sets an option twice, of which YAML would take the last value.

    Raises:
        UsageError: With the file and the line.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            root = yaml.compose(stream, yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {file}: the file is not UTF-8 text ({error})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        advice = "; indent with spaces, not with tabs" if r"'\t'" in str(error.problem) else ""
        raise UsageError(f"--config {file}: line {line}: {error.problem}{advice}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"--config {file}: {' '.join(str(error).split())}") from None
    _refuse_repeated(root, file, "")


def _refuse_repeated(node: yaml.Node | None, file: Path, group: str) -> None:
    """Refuse a key that a mapping, or one in it, contains twice."""
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeated(value, file, group)
    if isinstance(node, yaml.MappingNode):
        lines = dict[str, int]()
        for key, value in node.value:
            name, line = f"{group}{key.value}", key.start_mark.line + 1
            if name in lines:
                raise UsageError(f"--config {file}: {name} is set twice, in lines {lines[name]} and {line}; remove one")
            lines[name] = line
            _refuse_repeated(value, file, f"{name}.")


def recipe_name(recipe: str | Path) -> str:
    """Return the name of a recipe file for its runs' folder; the `config.yaml` of a run belongs to the run's recipe."""
    path = Path(os.path.abspath(recipe))
    name = path.parent.parent.name if re.fullmatch(r"version_\d+", path.parent.name) else path.stem
    return re.sub(r"[^\w.-]", "_", name)[:100].lstrip(".") or "run"  # `..` would be the parent folder


def usage() -> str:
    """Return the help of `--config`."""
    return (
        f"Recipe: the name of one in this package ({', '.join(names())}), or the path of a YAML file, such as the "
        "config.yaml of a run. What contains a separator, as in ./NAME, or ends with .yaml or .yml is a path, "
        "anything else is a name. Can be repeated: a later recipe overrides the earlier ones."
    )
