"""A folder that is ready to be uploaded as a hosted Space, and that runs without this project."""

import ast
import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch
import yaml

from cifar_lit.models import weights
from cifar_lit.report.results import RunResults
from cifar_lit.utils.files import atomic_write_text, new_folder
from cifar_lit.web.collect import collect_results
from cifar_lit.web.content import CARD
from cifar_lit.web.server import WEIGHTS

MAX_ERRORS = 100  # misclassified images
APP = '''\
"""A trained network as a web page: `pip install -r requirements.txt`, then `python app.py`."""

from pathlib import Path

from cifar_lit.web.server import launch

launch(Path(__file__).parent)
'''


def write_space(run: str, out: str) -> None:
    """Write the folder.

    Args:
        run: Folder of a run with its report.
        out: A new or empty folder.

    Raises:
        UsageError: The run or the folder cannot be used.
    """
    folder = new_folder(out, option="--space")
    results = RunResults.load(run)
    results.data.download = False
    folder.mkdir(parents=True, exist_ok=True)
    collect_results(results, folder, MAX_ERRORS)
    run_folder = Path(run) if Path(run, "checkpoints").is_dir() else Path(run).absolute().parent  # of an evaluation
    checkpoint = weights.read(run_folder / "checkpoints" / f"{results.weights.split()[0]}.ckpt", "RUN")
    torch.save(weights.network_part(checkpoint), folder / WEIGHTS)
    modules = find_modules("cifar_lit.web.server")
    for file in modules.values():
        target = folder / file.relative_to(Path(__file__).parents[2])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    atomic_write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in requirements(modules)))
    atomic_write_text(folder / "app.py", APP)
    _, header, text = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
    merged = yaml.safe_dump(_front_matter(results) | yaml.safe_load(header), sort_keys=False, allow_unicode=True)
    atomic_write_text(folder / CARD, f"---\n{merged}---\n{text}")
    print(f"wrote {folder}: try it with python {folder / 'app.py'}, and upload it as a Space of the kind Gradio")


def find_modules(name: str) -> dict[str, Path]:
    """Return the modules of this package that a module imports, directly or not, and their files."""
    found: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in found or not module.startswith("cifar_lit"):
            continue
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # a name in a module
            continue
        if spec is None or spec.origin is None:
            continue
        found[module] = Path(spec.origin)
        waiting += [module.rpartition(".")[0], *imports(found[module])]
    return dict(sorted(found.items()))


def imports(file: Path) -> set[str]:
    """Return what a file imports, also in functions, but not for type checkers only: `a.b` and `a.b.c` for names."""
    names = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)
    return names


def requirements(modules: dict[str, Path]) -> list[str]:
    """Return the installed versions of the packages that modules import, as lines of requirements.txt."""
    used = {name.partition(".")[0] for file in modules.values() for name in imports(file)}
    installed = metadata.packages_distributions()
    packages = {installed[name][0] for name in used - sys.stdlib_module_names - {"cifar_lit"}}
    return sorted(f"{name}=={metadata.version(name).partition('+')[0]}" for name in packages)


def _front_matter(results: RunResults) -> dict[str, object]:
    """Return what a Space needs before its card."""
    return {
        "title": f"ResNet-18, {results.name}",
        "emoji": "🔍",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": metadata.version("gradio"),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "pinned": False,
        "short_description": "Classifies images, and shows the evidence by Grad-CAM",
    }
