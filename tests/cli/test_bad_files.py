"""Unusable checkpoints, images, disks and networks: one message, and nothing is lost."""

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lit import evaluate
from cifar_lit.fit import main
from tests.cli.refused import FAILURE, files, refused
from tests.conftest import BRIEF, QUICK, Tiny, copy_run

Fit = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """Options for a small folder of images in two classes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for split, count in (("train", 12), ("test", 4)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
                image.save(root / split / name / f"{i}.png")
    return [*QUICK, "--data.source=folder", f"--data.root={root}", "--data.val_size=4", "--data.batch_size=4"]


def test_unreadable_image_is_named(folder: list[str], fit: Fit, capsys: Capture) -> None:
    os.truncate(Path("images/train/ant/4.png"), 200)
    message = refused(capsys, main, *folder)
    assert "data.root" in message and "4.png" in message


def test_unusable_checkpoint_is_named_and_changes_nothing(
    finished_run: Path, fit: Fit, folder: list[str], capsys: Capture, tmp_path: Path
) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (os.mkdir, ("harm",))

    run = copy_run(finished_run, tmp_path)
    last = run / "checkpoints" / "last.ckpt"
    (tmp_path / "cut.ckpt").write_bytes(last.read_bytes()[:100_000])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "pointer.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "page.ckpt").write_text("<html>Not found</html>")
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    torch.save({"state_dict": {}, "harm": Harmful()}, tmp_path / "harmful.ckpt")
    before = files(tmp_path)
    message = refused(capsys, evaluate.main, str(run), *folder[-4:-2])
    assert "10 classes instead of 2" in message
    reasons = {"cut": "truncated", "empty": "is empty", "pointer": "git lfs pull", "page": "not a checkpoint"}
    for name, reason in {**reasons, "other": "state_dict", "harmful": "mkdir"}.items():
        message = refused(capsys, main, *QUICK, f"--model.weights={name}.ckpt")
        assert f"--model.weights {name}.ckpt" in message and reason in message and "weights_only" not in message
    last.unlink()  # linked
    last.write_bytes((tmp_path / "cut.ckpt").read_bytes())
    message = refused(capsys, main, "--ckpt_path=last")
    assert "last.ckpt: the file is damaged" in message and "best.ckpt" in message
    last.unlink()
    os.link(finished_run / "checkpoints" / "last.ckpt", last)
    assert {name: file for name, file in files(tmp_path).items() if not name.startswith("data/")} == before
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("steps", "reason"),
    [(3, "not finite since step 4, at learning rate 2e+27"), (1, "val/loss of epoch 2 is not finite")],
)
def test_diverging_training_keeps_the_last_good_checkpoint(steps: int, reason: str, fit: Fit, capsys: Capture) -> None:
    options = ["--trainer.max_epochs=2", "--model.schedule.name=step", "--model.schedule.step_size=1"]
    options += [f"--trainer.limit_train_batches={steps}"]  # the first epoch is good
    message = refused(capsys, main, *BRIEF, *options, "--model.schedule.gamma=1e30", code=FAILURE)
    assert reason in message
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(Path("lightning_logs/demo/version_0/checkpoints", name), weights_only=True)
        assert checkpoint["epoch"] == 0
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


@pytest.mark.filterwarnings("ignore:model.compile does not speed up")
def test_missing_compiler_is_named_and_leaves_no_run(
    fit: Fit, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # what is in it is not compiled again
    monkeypatch.setattr("cifar_lit.models.classifier.ResNet18", lambda *_: Tiny())
    message = refused(capsys, main, *BRIEF, "--model.compile=true")
    assert "model.compile: " in message and "no-such-compiler" in message and "--model.compile false" in message
    assert not list(tmp_path.rglob("version_*"))


def test_full_disk(fit: Fit, capsys: Capture, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    try:  # a checkpoint takes 90 MB
        message = refused(capsys, main, *BRIEF, f"--trainer.default_root_dir={small}", code=FAILURE)
        assert os.strerror(errno.ENOSPC) in message
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_download_without_network(fit: Fit, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    message = refused(capsys, main, "--data.root=here", code=FAILURE)
    assert "data.mirrors" in message and "127.0.0.1:9" in message


def test_bfloat16_is_refused_if_the_cpu_computes_incorrect_gradients(
    capsys: Capture, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "avx512_f": True})
    tiny = [*BRIEF, "--trainer.accelerator=cpu", "--data.image_size=16", "--trainer.precision"]
    message = refused(capsys, main, *tiny, "bf16-mixed")
    assert all(word in message for word in ("trainer.precision=bf16-mixed", "32-true", "data.image_size", "model.stem"))
    provenance = json.loads((fit(*tiny, "null") / "provenance.json").read_text())
    assert provenance["precision"] == "32-true"
