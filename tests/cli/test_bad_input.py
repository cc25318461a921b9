"""A user's mistake gives one message that names the option, the right exit code, and changes nothing on disk."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lit import compare, evaluate, explain
from cifar_lit.fit import main
from tests.conftest import CONFIGS, QUICK

DEMO = ["--config", str(CONFIGS / "demo.yaml")]
USAGE, FAILURE = 2, 1


def raise_if_failed(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, str]:
    """Run `main`, and return exit code and message."""
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert message.count("error:") == 1
    return stopped.value.code, message[message.index("error:") :]


def on_disk(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything in a folder."""
    return {str(one.relative_to(folder)): (one.lstat().st_size, one.lstat().st_mtime_ns) for one in folder.rglob("*")}


def write_recipes(folder: Path) -> None:
    """Write recipes that are none."""
    (folder / "empty.yaml").write_text("")
    (folder / "list.yaml").write_text("- 1\n- 2\n")
    (folder / "folder.yaml").mkdir()
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x81data")
    (folder / "broken.yaml").write_text("data: {a: [\n")
    (folder / "types.yaml").write_text("data: 3\n")
    (folder / "tag.yaml").write_text("data: !!python/object/apply:os.mkdir [harm]\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.stemm=cifar"], ["--model.stemm", "did you mean --model.stem?", "--help"]),
        (["--trainer.max_epoch=3"], ["--trainer.max_epoch", "did you mean --trainer.max_epochs?"]),
        (["--model.stem=cifr"], ["model.stem", "cifar", "imagenet"]),
        (["--model.schedule.name=onecycl"], ["model.schedule.name", "onecycle"]),
        (["--model.optimizer.class_path=torch.optim.SDG"], ["model.optimizer", "SDG"]),
        (["--data.batch_size=many"], ["data.batch_size", "Expected an int", "many"]),
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
        (["--trainer.barebones=true"], ["trainer.barebones"]),
        (["--trainer.strategy=fsdp"], ["trainer.strategy=fsdp", "give ddp"]),
        (["--trainer.strategy=ddp_spawn"], ["trainer.strategy=ddp_spawn", "give ddp"]),
        (["--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"] * 2, ["trainer:", "state_key"]),
        (
            [
                "--trainer.limit_val_batches=0",
                "--trainer.callbacks+=pytorch_lightning.callbacks.EarlyStopping",
                "--trainer.callbacks.monitor=val/loss",
            ],
            ["trainer.limit_val_batches=0", "EarlyStopping with monitor=val/loss"],
        ),
        (["--data.augment_on=gpu"], ["data.augment_on", "workers", "device"]),
        (["--lr_find=-1"], ["lr_find must be 0 or more"]),
        (["--data.val_size=0", "--model.schedule.name=plateau"], ["data.val_size=0", "model.schedule.name=plateau"]),
        (["--ckpt_path=nowhere.ckpt"], ["--ckpt_path nowhere.ckpt", "no such file"]),
        (["--ckpt_path=last"], ["--ckpt_path last", "start without"]),
        (["--trainer.accelerator=tpu"], ["trainer:", "torch_xla"]),
        (["--trainer.strategy=dpp"], ["trainer:", "strategy", "dpp"]),
        (["--trainer.max_epochs=-3"], ["trainer.max_epochs must be 1 or more (or -1 for no limit)"]),
        (["--trainer.devices=0"], ["trainer:", "devices", "accelerator; change that trainer option"]),
        (["configs/demo.yaml"], ["--config configs/demo.yaml"]),
        (["--model.optimizer=adam"], ["model.optimizer=adam", "did you mean Adam?"]),
        (
            ["--trainer.val_check_interval=00:00:01:00", "--trainer.devices=2", "--trainer.accelerator=cpu"],
            ["trainer.val_check_interval as a time", "give a number of steps"],
        ),
        (["--model.optimizer.init_args.lr=-1"], ["model.optimizer", "learning rate", "-1"]),
        (["--config=nowhere.yaml"], ["nowhere.yaml: there is no such file", "the recipes are in configs/"]),
        (["--data.source=folder", "--data.root=nowhere"], ["data.root", "nowhere"]),
        (["--model.optimizer.init_args.lr=.nan"], ["model.optimizer", "nan"]),
        (["--model.optimizer.init_args.lr=.inf"], ["model.optimizer", "inf"]),
        (["--model.optimizer.init_args.lr=high"], ["model.optimizer", "lr", "Got value: high"]),
        (["--model.optimizer.init_args.momentum=-1"], ["model.optimizer", "momentum", "-1"]),
        (["--model.optimizer.init_args.weight_decay=-1"], ["model.optimizer", "weight_decay", "-1"]),
        (["--model.optimizer.init_args.learning_rate=1"], ["model.optimizer", "learning_rate"]),
        (["--model.optimizer=torch.nn.Linear"], ["model.optimizer", "torch.nn.Linear"]),
        (["--model.optimizer=torch.optim.Optimizer"], ["model.optimizer"]),
        (["--model.optimizer=torch.optim.LBFGS"], ["model.optimizer=LBFGS", "AdamW"]),
        (["--model.optimizer=null"], ["model.optimizer"]),
        (["--model.schedule.gamma=.inf"], ["model.schedule.gamma", "inf"]),
        (["--model.schedule.gamma=nan"], ["model.schedule.gamma", "nan"]),
        (["--model.schedule.pct_start=1"], ["model.schedule.pct_start must be between 0 and 1"]),
        (["--model.schedule.step_size=0"], ["model.schedule.step_size must be 1 or more"]),
        (["--model.schedule.factor=1"], ["model.schedule.factor must be above 0 and below 1"]),
        (["--model.schedule.patience=-1"], ["model.schedule.patience must be 0 or more"]),
        (["--model.schedule.div_factor=0"], ["model.schedule.div_factor must be above 0"]),
        (["--model.schedule.min_lr=-1"], ["model.schedule.min_lr must be 0 or more"]),
        (["--model.label_smoothing=-0.1"], ["model.label_smoothing must be"]),
        (["--model.init=x"], ["model.init", "torch"]),
        (["--model.compile=maybe"], ["model.compile", "bool", "maybe"]),
        (["--data.flip=.nan"], ["data.flip"]),
        (["--data.flip=1.5"], ["data.flip must be between 0 and 1"]),
        (["--data.rotate_degrees=360"], ["data.rotate_degrees must be between 0 and 180"]),
        (["--data.cutout_size=9999999"], ["data.cutout_size must be 0 to twice image_size, 64"]),
        (["--data.crop_padding=9999999"], ["data.crop_padding must be 0 to image_size, 32"]),
        (["--data.crop_padding=32", "--data.padding_mode=reflect"], ["data.padding_mode must be black where"]),
        (["--data.padding_mode=blue"], ["data.padding_mode", "reflect"]),
        (
            ["--data.cutout_size=0", "--data.cutout_warmup_epochs=3"],
            ["data.cutout_warmup_epochs must be 0 or more, and 0 where"],
        ),
        (["--data.flip=0", "--data.flip_mode=alternate"], ["data.flip_mode must be random where flip is 0"]),
        (["--model.norm_weight_decay=-1"], ["model.norm_weight_decay must be 0 or more"]),
        (["--model.norm_bias_lr_mult=0"], ["model.norm_bias_lr_mult must be above 0"]),
        (["--data.image_size=99999999"], ["data.image_size must be 8 to 4096"]),
        (["--data.image_size=1e3"], ["data.image_size", "int"]),
        (["--data.batch_size=999999999999999999999"], ["data.batch_size must be 1 to 1,000,000"]),
        (["--data.num_workers=1000000"], ["data.num_workers must be 0 to 256"]),
        (["--data.seed=-1"], ["data.seed must be"]),
        (["--data.train_eval_size=0"], ["data.train_eval_size must be 1 or more"]),
        (["--data.source=mnist"], ["data.source", "cifar10", "mnist"]),
        (["--data.mirrors=x"], ["data.mirrors", "list"]),
        (["--seed_everything=-1"], ["seed_everything must be between 0 and 4294967295"]),
        (["--seed_everything=99999999999"], ["seed_everything must be"]),
        (["--process_timeout=0"], ["process_timeout must be 1 to 1,000,000 seconds"]),
        (["--process_timeout=99999999999999999"], ["process_timeout must be"]),
        (["--checkpoint.every_n_train_steps=-1"], ["checkpoint.every_n_train_steps must be 0 or more"]),
        (["--samples.k=0"], ["samples.k must be 1 or more"]),
        (["--page.max_listed=-1"], ["page.max_listed must be 0 or more"]),
        (["--page.num_cams=-1"], ["page.num_cams must be 0 or more"]),
        (["--page.num_road=-1"], ["page.num_road must be 0 or more"]),
        (["--page.method=GradCAM"], ["page.method", "gradcam.method"]),
        (["--projector.num_images=-1"], ["projector.num_images must be 0 or more"]),
        (["--gradcam.method=Grad"], ["gradcam.method=Grad", "did you mean GradCAM?"]),
        (["--gradcam.layers=layer1"], ["gradcam.layers", "list"]),
        (["--gradcam.k=3"], ["gradcam.k", "misclassified.k"]),
        (["--misclassified.k=1.5"], ["misclassified.k", "int"]),
        (["--trainer.max_epochs=0"], ["trainer.max_epochs must be 1 or more"]),
        (["--trainer.max_epochs=1.5"], ["trainer.max_epochs: Expected one of [int, NoneType]. Got value: 1.5"]),
        (["--trainer.max_steps=0"], ["trainer.max_steps must be 1 or more"]),
        (["--trainer.accumulate_grad_batches=0"], ["trainer.accumulate_grad_batches must be 1 or more"]),
        (["--trainer.check_val_every_n_epoch=0"], ["trainer.check_val_every_n_epoch must be 1 or more"]),
        (["--trainer.limit_train_batches=1.5"], ["trainer:", "limit_train_batches", "1.5"]),
        (["--trainer.limit_train_batches=.nan"], ["trainer.limit_train_batches"]),
        (["--trainer.precision=7"], ["trainer.precision", "bf16-mixed", "7"]),
        (["--trainer.val_check_interval=0"], ["trainer.val_check_interval=0", "data.val_size=0"]),
        (["--trainer.val_check_interval=1000"], ["trainer.val_check_interval", "1000"]),
        (["--trainer.gradient_clip_val=-1"], ["trainer.gradient_clip_val must be 0 or more"]),
        (["--trainer.gradient_clip_algorithm=x"], ["trainer:", "gradient_clip_algorithm"]),
        (["--trainer.log_every_n_steps=-1"], ["trainer.log_every_n_steps must be 1 or more"]),
        (["--trainer.max_time=later"], ["trainer:", "later", "DD:HH:MM:SS"]),
        (["--trainer.num_nodes=0"], ["trainer:", "num_nodes"]),
        (["--trainer.devices=100000"], ["trainer.devices=100000", "at most"]),
        (["--trainer=3"], ["trainer"]),
        (["--config", "empty.yaml"], ["--config", "holds no options"]),
        (["--config", "list.yaml"], ["--config", "holds no options"]),
        (["--config", "folder.yaml"], ["folder.yaml"]),
        (["--config", "bytes.yaml"], ["--config", "UTF-8"]),
        (["--config", "broken.yaml"], ["line 2"]),
        (["--config", "types.yaml"], ["data is a group of options"]),
        (["--config", "tag.yaml"], ["python/object/apply"]),
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
    if args[0] == "--config":
        write_recipes(tmp_path)
    before = on_disk(tmp_path)
    code, message = raise_if_failed(capsys, *DEMO, *args)
    assert code == USAGE
    for word in words:
        assert word in message
    left = {name: what for name, what in on_disk(tmp_path).items() if not (tmp_path / name).is_dir()}
    assert left == {name: what for name, what in before.items() if not (tmp_path / name).is_dir()}
    assert not list(tmp_path.rglob("version_*"))


def test_val_size_0_names_the_callbacks_that_need_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        "data: {val_size: 0}\ntrainer:\n  callbacks:\n"
        "    - class_path: pytorch_lightning.callbacks.EarlyStopping\n      init_args: {monitor: val/loss}\n"
    )
    code, message = raise_if_failed(capsys, *DEMO, "--config", str(extra))
    assert code == USAGE and "EarlyStopping with monitor=val/loss" in message


def test_bfloat16_is_neither_chosen_nor_taken_where_the_cpu_computes_wrong_gradients(
    capsys: pytest.CaptureFixture[str], fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ability in ("_is_avx512_bf16_supported", "_is_avx512_supported"):
        monkeypatch.setattr(torch.cpu, ability, lambda: True)
    tiny = [*QUICK, "--trainer.accelerator=cpu", "--data.image_size=16", "--trainer.precision"]
    code, message = raise_if_failed(capsys, *tiny, "bf16-mixed")
    assert code == USAGE
    assert all(word in message for word in ("trainer.precision=bf16-mixed", "32-true", "data.image_size", "model.stem"))
    assert not list(Path().rglob("version_*"))
    notes = json.loads((fit(*tiny, "null") / "provenance.json").read_text())
    assert notes["precision"] == "32-true"


def test_an_unknown_key_in_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data: {bach_size: 3}\n")
    code, message = raise_if_failed(capsys, "--config", str(recipe))
    assert code == USAGE and "bach_size" in message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder of images in two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("ant", "bee"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
                image.save(tmp_path / "images" / split / name / f"{i}.png")
    return tmp_path / "images"


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
        (lambda root: (root / "train" / "ant" / "3.png").write_bytes(b"no image"), "3.png"),
        (lambda root: os.truncate(root / "train" / "ant" / "4.png", 200), "4.png"),
    ],
    ids=["no test", "classes differ", "one class", "no image", "truncated image"],
)
def test_folder(spoil: Any, word: str, folder: Path, capsys: pytest.CaptureFixture[str], fit: Any) -> None:
    spoil(folder)
    code, message = raise_if_failed(capsys, *of_folder(folder))
    assert code == USAGE and "data.root" in message and word in message


def test_checkpoints_that_do_not_fit_or_are_damaged(
    fit: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = fit(*QUICK)
    last = run / "checkpoints" / "last.ckpt"
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    code, message = raise_if_failed(capsys, *QUICK, "--ckpt_path=last", "--model.norm=layer")
    assert code == USAGE and "model.norm batch (now layer)" in message
    code, message = raise_if_failed(capsys, *of_folder(folder), f"--ckpt_path={last}")
    assert code == USAGE and "of 10 there and 2 here" in message
    for name, content in (("cut.ckpt", last.read_bytes()[:100_000]), ("empty.ckpt", b""), ("text.ckpt", b"hello")):
        (tmp_path / name).write_bytes(content)
        code, message = raise_if_failed(capsys, *QUICK, f"--ckpt_path={tmp_path / name}")
        assert code == USAGE and name in message and "damaged" in message
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    code, message = raise_if_failed(capsys, *QUICK, f"--ckpt_path={tmp_path / 'other.ckpt'}")
    assert code == USAGE and "state_dict" in message
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


class Harmful:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("harm",))


def test_no_code_from_a_checkpoint_runs(fit: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "harm": Harmful()}, tmp_path / "harmful.ckpt")
    code, message = raise_if_failed(capsys, *QUICK, f"--ckpt_path={tmp_path / 'harmful.ckpt'}")
    assert code == USAGE and "harmful.ckpt" in message
    assert not (tmp_path / "harm").exists()


def test_diverging_training_stops_and_keeps_the_last_good_checkpoint(
    fit: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--trainer.max_epochs=3", "--model.schedule.name=step", "--model.schedule.step_size=1"]
    code, message = raise_if_failed(capsys, *QUICK, *options, "--model.schedule.gamma=1e30")
    assert code == FAILURE
    assert "not finite since step 4, at learning rate 2e+27" in message  # steps 0 to 2 are the good epoch
    run = tmp_path / "lightning_logs" / "demo" / "version_0"
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(run / "checkpoints" / name, weights_only=True)
        assert checkpoint["epoch"] == 0
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_a_really_full_disk(fit: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    try:
        code, message = raise_if_failed(capsys, *QUICK, f"--trainer.default_root_dir={small}")  # a checkpoint has 90 MB
        assert code == FAILURE and "No space left on device" in message
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_no_network_for_the_download(fit: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    code, message = raise_if_failed(capsys, "--data.root=here")
    assert code == FAILURE
    assert "data.mirrors" in message and "127.0.0.1:9" in message


@pytest.mark.parametrize(
    ("command", "args", "words"),
    [
        (evaluate.main, [], ["--ckpt_path is not given"]),
        (evaluate.main, ["--ckpt_path=nowhere"], ["--ckpt_path nowhere"]),
        (evaluate.main, ["--ckpt_path=empty"], ["--ckpt_path empty", "contains no checkpoints"]),
        (evaluate.main, ["--ckpt_path=text.ckpt"], ["--ckpt_path text.ckpt", "damaged"]),
        (explain.main, ["x.png", "--ckpt_path=nowhere"], ["x.png: there is no such image"]),
        (explain.main, ["text.ckpt", "--ckpt_path=nowhere"], ["--ckpt_path nowhere"]),
        (explain.main, ["text.ckpt", "--ckpt_path=text.ckpt"], ["text.ckpt", "damaged"]),
        (explain.main, ["empty", "--ckpt_path=text.ckpt"], ["empty: this folder holds no images"]),
        (explain.main, ["text.ckpt", "--ckpt_path=text.ckpt", "--out=full"], ["--out full already exists"]),
        (explain.main, ["text.ckpt", "--ckpt_path=text.ckpt", "--top=0"], ["--top must be 1 or more"]),
        (explain.main, ["text.ckpt"], ["--ckpt_path"]),
        (compare.main, ["empty"], ["at least two runs"]),
        (compare.main, ["empty", "nowhere"], ["has no complete report"]),
        (compare.main, ["nowhere", "empty"], ["nowhere: there is no such folder"]),
        (compare.main, ["empty", "empty", "--out"], ["--out"]),
    ],
)
def test_usage_of_the_other_commands(
    command: Callable[[list[str]], None],
    args: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "text").write_text("mine")
    (tmp_path / "text.ckpt").write_text("hello")
    before = on_disk(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command(args)
    message = capsys.readouterr().err
    assert stopped.value.code == USAGE and "Traceback" not in message and message.count("error:") == 1
    for word in words:
        assert word in message
    assert on_disk(tmp_path) == before
