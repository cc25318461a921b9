"""A user's mistake gives one message that names the option, the right exit code, and changes nothing on disk."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIGS, QUICK
from PIL import Image

from cifar_lit.fit import main

DEMO = ["--config", str(CONFIGS / "demo.yaml")]
USAGE, FAILURE = 2, 1


def complain(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, str]:
    """Run `main`, and return exit code and message."""
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert message.count("error:") == 1
    return stopped.value.code, message[message.index("error:") :]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.stemm=cifar"], ["--model.stemm", "did you mean --model.stem?", "--help"]),
        (["--trainer.max_epoch=3"], ["--trainer.max_epoch", "did you mean --trainer.max_epochs?"]),
        (["--model.stem=cifr"], ["model.stem", "cifar", "imagenet"]),
        (["--model.schedule.name=onecycl"], ["model.schedule.name", "onecycle"]),
        (["--model.optimizer.class_path=torch.optim.SDG"], ["model.optimizer", "SDG"]),
        (["--data.batch_size=many"], ["data.batch_size", "Expected a int", "many"]),
        (["--model.schedule=cosine"], ["model.schedule is a group of options; give --model.schedule.name"]),
        (["--data.batch_size=0"], ["data.batch_size must be 1 to 1,000,000, got 0"]),
        (["--data.image_size=-3"], ["data.image_size must be", "-3"]),
        (["--data.val_size=-1"], ["data.val_size must be 0 or more"]),
        (["--data.val_size=5000"], ["data.val_size=5000", "1437", "--data.val_size 143"]),
        (["--model.label_smoothing=1.5"], ["model.label_smoothing"]),
        (["--model.schedule.gamma=0"], ["model.schedule.gamma must be above 0"]),
        (["--misclassified.k=0"], ["misclassified.k must be 1 or more"]),
        (["--gradcam.layers=[layer9]"], ["gradcam.layers", "layer9"]),
        (["--trainer.limit_test_batches=0"], ["trainer.limit_test_batches=0"]),
        (["--trainer.overfit_batches=2"], ["trainer.overfit_batches", "trainer.limit_train_batches"]),
        (["--data.augment_on=gpu"], ["data.augment_on", "workers", "device"]),
        (["--lr_find=-1"], ["lr_find must be 0 or more"]),
        (["--data.val_size=0", "--model.schedule.name=plateau"], ["data.val_size=0", "model.schedule.name=plateau"]),
        (["--ckpt_path=nowhere.ckpt"], ["--ckpt_path nowhere.ckpt", "no such file"]),
        (["--ckpt_path=last"], ["--ckpt_path last", "start without"]),
        (["--trainer.accelerator=tpu"], ["trainer:", "torch_xla"]),
        (["--trainer.strategy=dpp"], ["trainer:", "strategy", "dpp"]),
        (["--trainer.max_epochs=-3"], ["trainer:", "max_epochs"]),
        (["--trainer.devices=0"], ["trainer:", "devices"]),
        (["--model.optimizer.init_args.lr=-1"], ["model.optimizer", "learning rate", "-1"]),
        (["--config=nowhere.yaml"], ["nowhere.yaml: there is no such file", "the recipes are in configs/"]),
        (["--data.source=folder", "--data.root=nowhere"], ["data.root", "nowhere"]),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) and value[0].startswith("-") else "",
)
def test_usage(
    args: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, message = complain(capsys, *DEMO, *args)
    assert code == USAGE
    for word in words:
        assert word in message
    assert not list(tmp_path.rglob("version_*"))


def test_val_size_0_names_the_callbacks_that_need_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        "data: {val_size: 0}\ntrainer:\n  callbacks:\n"
        "    - class_path: pytorch_lightning.callbacks.EarlyStopping\n      init_args: {monitor: val/loss}\n"
    )
    code, message = complain(capsys, *DEMO, "--config", str(extra))
    assert code == USAGE and "EarlyStopping with monitor=val/loss" in message


def test_an_unknown_key_in_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data: {bach_size: 3}\n")
    code, message = complain(capsys, "--config", str(recipe))
    assert code == USAGE and "bach_size" in message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder of pictures in two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("ant", "bee"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
                image.save(tmp_path / "pictures" / split / name / f"{i}.png")
    return tmp_path / "pictures"


def of_folder(folder: Path) -> list[str]:
    return [*QUICK, "--data.source=folder", f"--data.root={folder}", "--data.val_size=4", "--data.batch_size=4"]


def test_own_folder_works(folder: Path, fit: Callable[..., Path]) -> None:
    report = fit(*of_folder(folder)) / "report"
    assert (report / "class_accuracy.csv").read_text().splitlines()[1].startswith("ant,4,")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda root: shutil.rmtree(root / "test"), "test"),
        (lambda root: shutil.rmtree(root / "test" / "bee"), "bee"),
        (lambda root: [shutil.rmtree(root / split / "bee") for split in ("train", "test")], "two class"),
        (lambda root: (root / "train" / "ant" / "3.png").write_bytes(b"no picture"), "3.png"),
        (lambda root: os.truncate(root / "train" / "ant" / "4.png", 200), "4.png"),
    ],
    ids=["no test", "classes differ", "one class", "no picture", "truncated picture"],
)
def test_folder(spoil: Any, word: str, folder: Path, capsys: pytest.CaptureFixture[str], fit: Any) -> None:
    spoil(folder)
    code, message = complain(capsys, *of_folder(folder))
    assert code == USAGE and "data.root" in message and word in message


def test_checkpoints_that_do_not_fit_or_are_damaged(
    fit: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = fit(*QUICK)
    last = run / "checkpoints" / "last.ckpt"
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    code, message = complain(capsys, *QUICK, "--ckpt_path=last", "--model.norm=layer")
    assert code == USAGE and "model.norm batch (now layer)" in message
    code, message = complain(capsys, *of_folder(folder), f"--ckpt_path={last}")
    assert code == USAGE and "number of classes 10 (now 2)" in message
    for name, content in (("cut.ckpt", last.read_bytes()[:100_000]), ("empty.ckpt", b""), ("text.ckpt", b"hello")):
        (tmp_path / name).write_bytes(content)
        code, message = complain(capsys, *QUICK, f"--ckpt_path={tmp_path / name}")
        assert code == USAGE and name in message and "damaged" in message
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    code, message = complain(capsys, *QUICK, f"--ckpt_path={tmp_path / 'other.ckpt'}")
    assert code == USAGE and "state_dict" in message
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


class Harmful:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("harm",))


def test_no_code_from_a_checkpoint_runs(fit: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "harm": Harmful()}, tmp_path / "harmful.ckpt")
    code, message = complain(capsys, *QUICK, f"--ckpt_path={tmp_path / 'harmful.ckpt'}")
    assert code == USAGE and "harmful.ckpt" in message
    assert not (tmp_path / "harm").exists()


def test_diverging_training_stops_and_keeps_the_last_good_checkpoint(
    fit: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--trainer.max_epochs=3", "--model.schedule.name=step", "--model.schedule.step_size=1"]
    code, message = complain(capsys, *QUICK, *options, "--model.schedule.gamma=1e30")
    assert code == FAILURE
    assert "not finite since step 4, at learning rate 5e+28" in message  # steps 0 to 2 are the good epoch
    run = tmp_path / "lightning_logs" / "demo" / "version_0"
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(run / "checkpoints" / name, weights_only=True)
        assert checkpoint["epoch"] == 0
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_a_full_disk_keeps_the_good_checkpoint(
    fit: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*QUICK, "--model.schedule.name=constant"]
    run = fit(*options)
    good = (run / "checkpoints" / "last.ckpt").read_bytes()

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")

    monkeypatch.setattr("lightning_fabric.plugins.io.torch_io._atomic_save", full)
    code, message = complain(capsys, *options, "--ckpt_path=last", "--trainer.max_epochs=2")
    assert code == FAILURE and "No space left on device" in message
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == good


def test_a_really_full_disk(fit: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    try:
        code, message = complain(capsys, *QUICK, f"--trainer.default_root_dir={small}")  # a checkpoint has 90 MB
        assert code == FAILURE and "No space left on device" in message
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_no_network_for_the_download(fit: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    code, message = complain(capsys, "--data.root=here")
    assert code == FAILURE
    assert "data.mirrors" in message and "127.0.0.1:9" in message
