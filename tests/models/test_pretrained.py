"""Weights in torchvision's format."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from cifar_lit.models import pretrained
from cifar_lit.models.classifier import ImageClassifier
from cifar_lit.utils.errors import RunError, UsageError

State = dict[str, torch.Tensor]
GRAY: Any = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture
def requests(imagenet_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server that has the file, which the cache does not have; the paths that it was asked for."""
    found: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            found.append(self.path)

    served = imagenet_weights.parents[1] / "served"
    imagenet_weights.parent.rename(served)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(served)))
    monkeypatch.setattr(pretrained, "URL", f"http://127.0.0.1:{server.server_port}/{imagenet_weights.name}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def test_imagenet_weights_are_downloaded_once_and_verified(requests: list[str], imagenet_weights: Path) -> None:
    with ThreadPoolExecutor(3) as processes:
        files = {one.result() for one in [processes.submit(pretrained.imagenet_file) for _ in range(3)]}
    assert files == {imagenet_weights} and requests == [f"/{imagenet_weights.name}"]
    with open(imagenet_weights, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(RunError, match=rf"{imagenet_weights} is damaged; delete it"):
        pretrained.imagenet_file()
    served = imagenet_weights.parents[1] / "served" / imagenet_weights.name
    served.write_bytes(imagenet_weights.read_bytes())
    imagenet_weights.unlink()
    with pytest.raises(RunError, match=r"could not be downloaded:[^$]*--model\.weights FILE"):
        pretrained.imagenet_file()
    assert not list(imagenet_weights.parent.glob("*.pth.part")) and not imagenet_weights.exists()


def test_imagenet_weights_give_the_logits_of_torchvision(imagenet_weights: Path, torchvision_state: State) -> None:
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    reference = resnet18()
    reference.load_state_dict(torchvision_state)
    floats = images.permute(0, 3, 1, 2) / 255
    transforms = ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=64, resize_size=64)
    with torch.no_grad():
        expected = reference.eval()(transforms(floats))
        logits = ImageClassifier(1000, **GRAY, stem="imagenet", weights="imagenet").eval()(images)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


def legacy(state: State, file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


def of_data_parallel(state: State, file: Path) -> None:
    torch.save({f"module.{name}": value for name, value in state.items()}, file)


def of_2018(state: State, file: Path) -> None:
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, file)


@pytest.mark.parametrize("save", [legacy, of_data_parallel, of_2018])
def test_files_in_torchvisions_format_are_loaded(save: Any, torchvision_state: State, tmp_path: Path) -> None:
    save(torchvision_state, tmp_path / "weights.pth")
    net = ImageClassifier(5, **GRAY, stem="imagenet", weights=str(tmp_path / "weights.pth")).net
    state = net.backbone.state_dict()
    different = {name for name, value in torchvision_state.items() if not torch.equal(value, state[name])}
    assert different == {"fc.weight", "fc.bias"} and state["fc.weight"].shape == (5, 512)
    assert net.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_other_architectures_are_refused(torchvision_state: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    larger = {"conv1.weight": (64, 3, 7, 7), "bn1.running_mean": (64,), "fc.weight": (1000, 2048)}
    torch.save({name: torch.zeros(shape) for name, shape in larger.items()}, file)
    with pytest.raises(UsageError, match=rf"{file}: .* it has another architecture .* other weights of a ResNet-18"):
        ImageClassifier(5, **GRAY, stem="imagenet", weights=str(file))
    torch.save(torchvision_state, file)
    with pytest.raises(UsageError, match=r"model\.stem imagenet \(now cifar\)"):
        ImageClassifier(5, **GRAY, weights=str(file))
    torch.save({"model": 1}, file)
    with pytest.raises(UsageError, match="it has no state_dict"):
        ImageClassifier(5, **GRAY, weights=str(file))
