"""`python -m cifar_lit.predict`."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cifar_lit
from cifar_lit import predict
from cifar_lit.inference.results import Predictions
from cifar_lit.inference.rows import Rows
from cifar_lit.inference.stream import read_batches
from cifar_lit.models.temperature import Temperature, store
from cifar_lit.report.results import RunResults
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.signals import Interrupted
from tests.cli.refused import FAILURE, refused
from tests.conftest import copy_run

STRANGE = ["=1+1.png", "a,b.png", "two\nlines.png", os.fsdecode(b"\xff.png"), '"quoted".png']


@pytest.fixture
def images(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 30 test images in folders of their classes, and others."""
    monkeypatch.chdir(tmp_path)
    test = RunResults.load(finished_run).data.splits.test
    for i in range(30):
        folder = Path("images", str(test.labels[i]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[i]).save(folder / f"{i}.png")
    Path("images/.hidden").mkdir()
    Path("images/.hidden/x.png").write_text("no image")
    Path("images/notes.txt").write_text("no image")
    return Path("images")


def gpu_is_full(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_is_full(*_: object) -> None:
    torch.empty(2**50, dtype=torch.uint8)


@pytest.mark.parametrize("forward", [gpu_is_full, cpu_is_full])
def test_lack_of_memory_is_named(
    finished_run: Path,
    images: Path,
    forward: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cifar_lit.models.resnet.ResNet18.forward", forward)
    message = refused(capsys, predict.main, str(finished_run), str(images), "--num_workers=0", code=FAILURE)
    assert "not enough memory" in message and "allocate" in message and "CUDA_VISIBLE_DEVICES=-1" in message


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_each_image_has_a_row(finished_run: Path, images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = str(finished_run)
    predict.main([run, str(images), "--out", "new/rows.csv", "--device", "cpu"])
    printed = capfd.readouterr()
    predict.main([run, "--num_workers", "0", str(images), "--out", "rows.jsonl", "--device", "cpu"])
    predict.main([run, str(images), "--num_workers=0"])
    screen = capfd.readouterr()
    rows = sorted(read_csv(Path("new/rows.csv").read_text()), key=lambda row: row["file"])
    assert sorted(read_csv(screen.out), key=lambda row: row["file"]) == rows
    lines = sorted(map(json.loads, Path("rows.jsonl").read_text().splitlines()), key=lambda row: row["file"])
    expected = cifar_lit.load(finished_run, "cpu").predict(sorted(map(str, images.glob("[0-9]/*.png"))))
    correct = sum(
        Path(str(file)).parent.name == label for file, label in zip(expected.files, expected.labels, strict=True)
    )
    assert f"30 images classified; accuracy {correct / 30:.2%} of 30" in printed.err and not printed.out
    assert "ignoring 1 file, not PNG, JPEG or WebP (notes.txt)" in printed.err
    assert [row["file"] for row in rows] == [row["file"] for row in lines] == list(expected.files)
    for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
        assert row.keys() == line.keys()
        assert {key: value if isinstance(line[key], str) else float(value) for key, value in row.items()} == line
        assert line["predicted"] == expected.labels[i]
        assert line["margin"] == pytest.approx(expected.margins[i], abs=1e-5)
        assert line["probability"] == max(line[f"p({name})"] for name in expected.class_names)
        assert [line[f"p({name})"] for name in expected.class_names] == pytest.approx(
            expected.probabilities[i].tolist(), abs=1e-5
        )
    assert sorted(os.listdir()) == ["images", "new", "rows.jsonl"] and os.listdir("new") == ["rows.csv"]


def test_calibrated_rows_are_not_mixed_with_others(
    finished_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(finished_run, tmp_path / "copy")
    classifier = cifar_lit.load(run, "cpu")
    arguments = [str(run), str(images / "0"), "--num_workers=0", "--device=cpu", "--out", "rows.csv"]
    assert "--calibrated: no temperature" in refused(capsys, predict.main, *arguments, "--calibrated")
    store(run / "checkpoints", classifier.fingerprint, Temperature(2.5, 2.0, 3.0, 200))
    predict.main([*arguments, "--calibrated"])
    (row, *_) = read_csv(Path("rows.csv").read_text())
    expected = classifier.predict(row["file"], calibrated=True)
    assert float(row["probability"]) == pytest.approx(float(expected.confidences[0]), abs=1e-5)
    assert row["weights"] == f"{classifier.fingerprint} T=2.5"
    assert "not calibrated alike" in refused(capsys, predict.main, *arguments)


def test_unreadable_files_are_listed_and_tried_again(
    finished_run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(finished_run), str(images), "--out", "rows.csv", "--num_workers", "0", "--device", "cpu"]
    for name in STRANGE:
        Image.new("RGB", (9, 9)).save(images / name)
    broken = images / "broken.png"
    broken.write_text("no image")
    with pytest.raises(SystemExit) as stopped:
        predict.main(command)
    assert stopped.value.code == 1
    assert "error: 1 unreadable image, listed in rows_unreadable.txt" in capsys.readouterr().err
    assert Path("rows_unreadable.txt").read_text() == f"{broken}: not a PNG, JPEG or WebP image; convert it\n"
    before = Path("rows.csv").read_bytes()
    Image.new("RGB", (9, 9)).save(broken)
    predict.main(command)
    assert "rows.csv has 35 rows already; remaining: 1 image\n36 images classified; " in capsys.readouterr().err
    after = Path("rows.csv").read_bytes()
    assert after.startswith(before) and after[len(before) :].startswith(b"images/broken.png,")
    assert not Path("rows_unreadable.txt").exists()


def test_interrupted_command_continues(
    finished_run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(finished_run), str(images), "--out", "rows.csv", "--num_workers", "0", "--device", "cpu"]
    monkeypatch.setattr("cifar_lit.inference.classifier.eval_batch_size", lambda size: 8)
    predict.main([*command, "--out", "whole.csv"])
    write = Rows.write

    def interrupted(*args: Any) -> None:
        write(*args)
        raise Interrupted(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(Rows, "write", interrupted)
        predict.main(command)
    assert stopped.value.code == 130
    assert "stopped by SIGINT; repeat the command with --out rows.csv to continue" in capsys.readouterr().err
    with open("rows.csv", "r+b") as file:  # as a full disk or a power failure may leave it
        file.truncate(os.path.getsize("rows.csv") - 9)
    predict.main(command)
    assert "7 rows already; remaining: 23 images" in capsys.readouterr().err
    assert_same_rows(Path("rows.csv"), Path("whole.csv"))


def assert_same_rows(left: Path, right: Path) -> None:
    """Assert equal rows, up to rounding: an image's result depends a little on the others of its batch."""
    for one, other in zip(*(read_csv(path.read_text()) for path in (left, right)), strict=True):
        assert one["file"] == other["file"] and one["predicted"] == other["predicted"]
        assert float(one["margin"]) == pytest.approx(float(other["margin"]), abs=1e-5)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_incomplete_row_is_removed_wherever_it_ends(name: str, tmp_path: Path) -> None:
    out, classes = str(tmp_path / name), ("-ape", 'b"e,e', "…")
    files = tuple(f"folder/{name}" for name in STRANGE)
    table = np.random.default_rng(0).dirichlet([1, 1, 1], len(files)).astype(np.float32)
    predictions = Predictions(classes, table, files)
    rows = Rows(out, classes, "0123")
    with rows.append() as file:
        rows.write(file, predictions)
    whole = Path(out).read_bytes()
    expected = list(zip(files, predictions.labels, strict=True))
    assert list(rows.resume()) == expected
    for size in range(0, len(whole), 3):
        Path(out).write_bytes(whole[:size])
        found = list(rows.resume())
        assert found == expected[: len(found)]
        rest = Predictions(classes, table[len(found) :], files[len(found) :])
        with rows.append() as file:
            rows.write(file, rest)
        assert Path(out).read_bytes() == whole
    for other in (Rows(out, classes, "4567"), Rows(out, ("-ape", "…"), "0123")):
        with pytest.raises(UsageError, match=r"rows\.\w+ exists, but not with predictions of this network"):
            list(other.resume())
    assert Path(out).read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "a,b\n1,2\n3"),
        ("x.csv", "file,predicted,probability,margin,p(a),weights\r\nx,a,1,1,0123\r\n"),
        ("x.jsonl", '{"file": "mine", "size": 3}\n'),
        ("x.jsonl", '{"file": "mine", \n'),
        ("x.jsonl", '{"file": "mine"}\n{"file": "no newline at its end"}'),
        ("x.jsonl", "[1]\n"),
        ("x.jsonl", "\n\n"),
    ],
)
def test_other_file_is_not_changed(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    with pytest.raises(UsageError, match="exists, but not with predictions"):
        list(Rows(str(path), ("a",), "0123").resume())
    assert path.read_bytes() == text.encode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("RUN nowhere.png", "nowhere.png: no such image or folder"),
        ("RUN empty", "empty: this folder contains no images"),
        ("nowhere empty", "RUN nowhere: there is no such file"),
        ("RUN empty --out=rows.txt", "--out rows.txt: the name must end in .csv or .jsonl"),
        ("RUN empty --out=empty/x.csv/x.csv", "part of this path is a file"),
        ("RUN empty --num_workers=-1", "--num_workers must be 0 or more"),
        ("RUN empty --device=gpu", "--device gpu: "),
    ],
)
def test_bad_options(
    options: str,
    message: str,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty/x.csv").touch()
    assert message in refused(capsys, predict.main, *options.replace("RUN", str(finished_run)).split())
    assert os.listdir() == ["empty"]


def test_rows_of_other_weights_are_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    predictions = Predictions(("a", "b"), np.eye(2, dtype=np.float32), ("1.png", "2.png"))
    rows = Rows(str(path), ("a", "b"), "0123")
    with rows.append() as file:
        rows.write(file, predictions)
    path.write_bytes(path.read_bytes().removesuffix(b"\r\n"))  # as an editor may save it
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists, but not with predictions"):
        list(Rows(str(path), ("a", "b"), "4567").resume())
    assert path.read_bytes() == before
    assert list(rows.resume()) == [("1.png", "a")]


def test_file_of_another_process_is_not_touched(
    finished_run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(finished_run), str(images), "--out", "new/rows.csv", "--num_workers", "0", "--device", "cpu"]
    with Rows("new/rows.csv", (), "").lock():
        assert "new/rows.csv: another process is writing this file; wait" in refused(capsys, predict.main, *command)
    assert not os.listdir("new")


def test_death_of_a_worker_is_reported(
    finished_run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die(item: Any, size: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("cifar_lit.inference.stream.pixels", die)
    command = [str(finished_run), str(images), "--out", "rows.csv", "--num_workers", "1"]
    assert "reduce --num_workers, 0 uses none" in refused(capsys, predict.main, *command, code=1)


def test_closed_output_ends_the_command(
    finished_run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(*args: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Rows, "write", closed)
    with pytest.raises(SystemExit) as stopped:
        predict.main([str(finished_run), str(images), "--num_workers", "0"])
    assert stopped.value.code == 1 and "standard output was closed" in capsys.readouterr().err


def test_files_are_read_only_a_few_batches_ahead(images: Path) -> None:
    started = []

    def files() -> Any:
        for file in images.glob("[0-9]/*.png"):
            started.append(file)
            yield str(file)

    batches = read_batches(files(), 8, batch_size=2)
    assert next(batches).images.shape == (2, 8, 8, 3) and len(started) == 2
    assert sum(len(batch.files) for batch in batches) == 28 and len(started) == 30
