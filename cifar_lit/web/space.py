"""A folder that is ready to be uploaded as a hosted Space, and that runs without this project."""

import ast
import platform
from importlib import metadata
from pathlib import Path

import torch
import yaml

from cifar_lit.models import temperature, weights
from cifar_lit.report.results import RunResults
from cifar_lit.utils.files import atomic_write_text, check_new_folder, new_folder
from cifar_lit.web.collect import collect_results
from cifar_lit.web.content import CARD
from cifar_lit.web.server import WEIGHTS

ROOT = Path(__file__).parents[2]  # of the package
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
    check_new_folder(out, "--space")
    results = RunResults.load(run)
    results.data.download = False
    folder = new_folder(out, option="--space")
    classifier = collect_results(results, folder, MAX_ERRORS)
    assert results.checkpoint
    network = weights.network_part(weights.read(results.checkpoint, "RUN"))
    network["ImageDataModule"]["image_size"] = classifier.image_size
    torch.save(network, folder / WEIGHTS)
    if fitted := temperature.find(results.checkpoint.parent, classifier.fingerprint):
        temperature.store(folder, classifier.fingerprint, fitted)
    modules = find_modules("cifar_lit.web.server")
    for file in modules.values():
        target = folder / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    atomic_write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in requirements(modules)))
    atomic_write_text(folder / "app.py", APP)
    _, header, text = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
    merged = yaml.safe_dump(_front_matter(results) | yaml.safe_load(header), sort_keys=False, allow_unicode=True)
    atomic_write_text(folder / CARD, f"---\n{merged}---\n{text}")
    print(f"wrote {folder}: try it with python {folder / 'app.py'}, and upload it as a Gradio Space")


def find_modules(name: str) -> dict[str, Path]:
    """Return the modules of this package that a module imports, directly or not, and their files."""
    found: dict[str, Path] = {}
    pending = [name]
    while pending:
        module = pending.pop()
        path = ROOT / module.replace(".", "/")
        file = next(filter(Path.is_file, (path.with_suffix(".py"), path / "__init__.py")), None)
        if file and module.startswith("cifar_lit") and module not in found:  # not a name in a module
            found[module] = file
            pending += [module.rpartition(".")[0], *imports(file)]
    return dict(sorted(found.items()))


def imports(file: Path) -> set[str]:
    """Return what a file imports, also in functions, but not for type checkers only: `a.b` and `a.b.c` for names."""
    names = set()
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            pending += ast.iter_child_nodes(node)
    return names


def requirements(modules: dict[str, Path]) -> list[str]:
    """Return the installed versions of the packages that modules import, as lines of requirements.txt."""
    used = {name.partition(".")[0] for file in modules.values() for name in imports(file)} - {"cifar_lit"}
    files = {dist.name: "\n" + (dist.read_text("RECORD") or "") for dist in metadata.distributions()}
    packages = {name for name, record in files.items() for module in used if f"\n{module}/__init__.py," in record}
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
