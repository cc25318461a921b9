"""Export of a trained network: the formats, and the comparison of the file with the network."""

import copy
import importlib
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_lit.inference.model_card import model_card
from cifar_lit.models.resnet import ResNet18
from cifar_lit.report.results import RunResults
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.files import atomic_write_text
from cifar_lit.utils.text import counted

NUM_COMPARED = 1000  # test images
MAX_DIFFERENCE = 1e-4  # of a probability
RESIZE_RULE = "Pillow: ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)"

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images (N, S, S, 3) to outputs (N, C)


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        file: Name of the file.
        packages: Needed beside those of the project.
        save: Writes network and metadata to a file.
        load: Returns a function that runs the file, without the original network.
    """

    file: str
    packages: tuple[str, ...]
    save: Callable[["Exported", dict[str, Any], Path], None]
    load: Callable[[Path], Run]


class Exported(nn.Module):
    """Maps uint8 images `(N, H, W, 3)` to probabilities `(N, C)`, or to logits."""

    def __init__(self, net: ResNet18, logits: bool) -> None:
        super().__init__()
        self.net, self.logits = net, logits

    def contiguous(self) -> "Exported":
        """Return a copy with contiguous weights, as the formats store them."""
        copied = copy.deepcopy(self).to(memory_format=torch.contiguous_format)
        copied.net.memory_format = torch.contiguous_format
        return copied

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        outputs: Tensor = self.net(images)
        return outputs if self.logits else outputs.softmax(1)


def export_run(run: str, format: str, out: str | None = None, logits: bool = False, license: str = "mit") -> None:
    """Write the network of a run and a model card, and print how far its outputs differ, and how fast it is.

    Args:
        run: Folder of a run with its report.
        format: A key of FORMATS.
        out: Folder for the files; default: `export` in the run.
        logits: Whether it returns logits instead of probabilities.
        license: Identifier for the model card.

    Raises:
        UsageError: There is no such run, or a package is missing.
        RunError: The export differs from the network; it is removed.
    """
    kind = FORMATS[format]
    _import(kind.packages, format)
    results = RunResults.load(run)
    folder = Path(out) if out else Path(run) / "export"
    module = Exported(results.network.cpu(), logits).eval()
    images = np.array(results.test_images.images[:NUM_COMPARED])  # torch warns of read-only memory maps
    with _created(folder), tempfile.TemporaryDirectory(dir=folder) as temporary:
        file = Path(temporary, kind.file)
        kind.save(module, metadata(results, logits), file)
        program = kind.load(file)
        print(_compare(module, program, images))
        for batch in (1, 64):
            print(_latency(module, program, images, batch))
        for part in Path(temporary).iterdir():
            part.replace(folder / part.name)
    atomic_write_text(folder / "README.md", model_card(results, kind.file, logits, license))
    size_mb = (folder / kind.file).stat().st_size / 2**20
    print(f"wrote {folder / kind.file} ({size_mb:.1f} MiB) and README.md, its model card")


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Create a folder for the block; remove it again if the block fails."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


def metadata(results: RunResults, logits: bool = False) -> dict[str, Any]:
    """Return what a user of the file needs beside the weights: plain values."""
    net = results.network.normalize
    options = results.provenance.options.get("model", {})
    return {
        "classes": list(results.classes),
        "image_size": results.data.image_size,
        "input": f"uint8 (N, {results.data.image_size}, {results.data.image_size}, 3), RGB, not normalized",
        "resize": RESIZE_RULE,
        "output": "logits (N, C)" if logits else "probabilities (N, C)",
        "mean": net.mean.flatten().tolist(),
        "std": net.std.flatten().tolist(),
        "stem": options.get("stem", "cifar"),
        "norm": options.get("norm", "batch"),
        "run": results.name,
        "weights": results.weights,
        "test_accuracy": results.test.accuracy,
        "test_images": len(results.test),
        "fingerprints": results.fingerprints,
        "commit": results.provenance.parts[0].get("commit"),
    }


def _import(packages: tuple[str, ...], format: str) -> None:
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"--format {format}: {error}; install it with pip install 'cifar_lit[export]'") from None


def _compare(module: Exported, program: Run, images: NDArray[np.uint8]) -> str:
    with torch.inference_mode():
        parts = np.array_split(images, max(1, len(images) // 100))
        expected = np.concatenate([module(torch.from_numpy(part)).numpy() for part in parts])
    actual = np.concatenate([program(part) for part in parts])
    probabilities = [torch.from_numpy(one).double() for one in (actual, expected)]
    if module.logits:
        probabilities = [one.softmax(1) for one in probabilities]
    difference = float((probabilities[0] - probabilities[1]).abs().max())
    changed = int((actual.argmax(1) != expected.argmax(1)).sum())
    if changed or not difference <= MAX_DIFFERENCE:
        raise RunError(
            f"the export differs from the network: {changed} of {len(images)} predictions, and probabilities by up to "
            f"{difference:.1e} (at most {MAX_DIFFERENCE:.0e} is accepted); it was removed"
        )
    return f"same predictions for {len(images):,} test images; probabilities differ by at most {difference:.1e}"


def _latency(module: nn.Module, program: Run, images: NDArray[np.uint8], batch: int) -> str:
    inputs = np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
    tensor = torch.from_numpy(inputs)
    seconds: dict[str, list[float]] = {"PyTorch": [], "export": []}
    with torch.inference_mode():
        for _ in range(6):  # the first round warms up
            for name, run in (("PyTorch", lambda: module(tensor)), ("export", lambda: program(inputs))):
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    ours, theirs = (1000 * statistics.median(seconds[name][1:]) for name in ("export", "PyTorch"))
    return f"{counted(batch, 'image')}: {ours:.1f} ms, PyTorch {theirs:.1f} ms (CPU)"


def _example(module: nn.Module, values: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Return a batch of two images, and `dynamic_shapes` for batches of any size up to 65,536."""
    size = values["image_size"]
    batch = torch.export.Dim("batch", min=1, max=2**16)
    return torch.zeros(2, size, size, 3, dtype=torch.uint8), {"images": {0: batch}}


def _save_onnx(module: Exported, values: dict[str, Any], file: Path) -> None:
    example, shapes = _example(module, values)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": [values["output"].split()[0]]}
    program: Any = torch.onnx.export(
        module.contiguous(), (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
    )
    program.model.metadata_props.update(
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    )
    program.save(str(file), external_data=False)


def _load_onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def _save_torch(module: Exported, values: dict[str, Any], file: Path) -> None:
    example, shapes = _example(module, values)
    program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # it takes channels-last weights for parts
        torch.export.save(program, str(file), extra_files={"metadata.json": json.dumps(values)})


def _load_torch(file: Path) -> Run:
    module = torch.export.load(str(file)).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()


def _save_safetensors(module: Exported, values: dict[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    save_file(module.contiguous().net.state_dict(), str(file))
    file.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _load_safetensors(file: Path) -> Run:
    from safetensors.torch import load_file

    values = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    net = ResNet18(len(values["classes"]), values["mean"], values["std"], values["stem"], values["norm"])
    net.load_state_dict(load_file(str(file)))
    module = Exported(net, values["output"].startswith("logits")).eval()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()


FORMATS = {
    "onnx": Format("model.onnx", ("onnxscript", "onnxruntime"), _save_onnx, _load_onnx),
    "torch": Format("model.pt2", (), _save_torch, _load_torch),
    "safetensors": Format("model.safetensors", ("safetensors",), _save_safetensors, _load_safetensors),
}
