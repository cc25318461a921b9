"""Hostile files cannot run code, inject markup, write elsewhere or exhaust the memory."""

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar_lit.cli.recipes import recipe_name
from cifar_lit.data import decode, sources
from cifar_lit.data import image_folder as folder
from cifar_lit.fit import main
from cifar_lit.inference.explanation import _unique_name
from cifar_lit.inference.images import image_files
from cifar_lit.report.comparison import ChangedImages, Changes
from cifar_lit.report.html import render
from cifar_lit.report.results import RunResults
from cifar_lit.utils.errors import RunError
from cifar_lit.utils.files import plain_cell, safe_cell
from tests.cli.refused import DEMO, refused

NAMES = ["</script><script>alert(1)</script>", "=cmd|' /C calc'!A0", "../../x", "a\nb", "\"'>", "[x](javascript:y)|"]


HARMFUL = {
    "optimizer os.system": "model: {optimizer: {class_path: os.system, init_args: {command: mkdir harm}}}",
    "optimizer posix.system": "model: {optimizer: {class_path: posix.system, init_args: {command: mkdir harm}}}",
    "optimizer Popen": "model: {optimizer: {class_path: subprocess.Popen, init_args: {args: [mkdir, harm]}}}",
    "optimizer of ours": "model: {optimizer: {class_path: cifar_lit.utils.files.fsync_dir, init_args: {folder: x}}}",
    "callback os.system": "trainer: {callbacks: [{class_path: os.system, init_args: {command: mkdir harm}}]}",
    "callback's hook": "trainer: {callbacks: [{class_path: pytorch_lightning.callbacks.LambdaCallback, init_args: "
    "{on_fit_start: {class_path: os.system, init_args: {command: mkdir harm}}}}]}",
    "logger Popen": "trainer: {logger: {class_path: subprocess.Popen, init_args: {args: [mkdir, harm]}}}",
    "tag apply": "data: !!python/object/apply:os.mkdir [harm]",
    "tag name": "seed_everything: !!python/name:os.mkdir",
}


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL.keys())
def test_no_code_from_a_recipe_runs(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strange.yaml").write_text(text)
    refused(capsys, main, *DEMO, "--config", "strange.yaml", "--trainer.fast_dev_run=1", "--data.num_workers=0")
    assert os.listdir() == ["strange.yaml"]


def test_no_code_from_a_cache_runs(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "harm"),))

    np.save(tmp_path / "train_images.npy", np.zeros((1, 8, 8, 3), np.uint8))
    np.save(tmp_path / "train_labels.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
    (tmp_path / "meta.json").write_text('{"fingerprint": "f", "classes": [], "mean": [], "std": []}')
    assert folder._open(str(tmp_path), "f") is None
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("recipe", ["...yaml", "..yaml", "/version_0/config.yaml", "a/../..yaml", *NAMES])
def test_run_folder_stays_below_lightning_logs(recipe: str) -> None:
    name = recipe_name(recipe)
    assert name.strip(".") and "/" not in name


def test_explanation_files_stay_in_their_folder() -> None:
    taken: set[str] = set()
    for name in [*NAMES, "..", ".", "", "same", "same"]:
        free = _unique_name(name, taken)
        assert free.strip(".") and not {"/", "\n", "\0"} & set(free)


def test_class_names_are_escaped_in_compare_html() -> None:
    item = {"index": 0, "true": NAMES[0], "before": NAMES[4], "after": NAMES[0], "image": "data:,"}
    changed = [ChangedImages(heading, 1, [item]) for heading in ("Fixed", "New", "Stay")]
    found_changes = Changes(*(np.arange(1) for _ in range(3)), 0.5)
    rows = [["run", *NAMES[:2]], [NAMES[4], *NAMES[:2]]]
    figures = {"localization": [(NAMES[0], "<svg></svg>")]}
    shown = {"rows": rows, "differences": rows, "evidence": rows, "figures": figures}
    html = render("compare.html", **shown, found=found_changes, changed=changed, max_shown=500)
    found: list[tuple[str, Any]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            found.append((tag, attrs))

    Tags().feed(html)
    assert not [tag for tag, _ in found if tag == "script"]
    assert not [attrs for _, attrs in found if any(key.startswith("on") for key, _ in attrs)]
    assert {attrs[1][1] for tag, attrs in found if tag == "img"} == {f"test image 0, {NAMES[0]}"}


@pytest.mark.parametrize("name", NAMES)
def test_class_names_are_escaped_in_readme_tables(name: str, make_results: Callable[..., RunResults]) -> None:
    split = {
        "accuracy": 1.0,
        "images": 1,
        "accuracy_interval_95": (0, 1),
        "loss": 0,
        "calibration_error": 0,
        "errors": 0,
    }
    quality = {"splits": {"test": split}, "classes": [[name, 1.0, 1.0, 1.0, 1.0]]}
    text = render("readme.md", results=make_results(), quality=quality, failed={}, figures={})
    assert "<script" not in text and "[x](" not in text
    assert len([line for line in text.splitlines() if line.endswith("| 100.0% | 100.0% | 100.0% |")]) == 1
    assert text.rstrip().splitlines()[-1].startswith("| ")


def test_class_names_are_not_formulas_in_spreadsheets() -> None:
    for name in [*NAMES, "+1+1", "-x", "@SUM(1)", "\t=1", "'x"]:
        cell = safe_cell(name)
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) and plain_cell(cell) == name


def png(width: int, height: int) -> bytes:
    """Return a tiny PNG that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def jpeg(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = file.getvalue()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]


def webp(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (16, 16), (0, 0, 0, 9)).save(file, "WEBP", lossless=False)
    data = file.getvalue()
    assert data[12:16] == b"VP8X"
    return data[:24] + struct.pack("<I", side - 1)[:3] * 2 + data[30:]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.png", png(100_000, 100_000)), ("b.png", png(2**31 - 1, 1)), ("c.webp", webp(16_000)), ("d.jpg", jpeg(60_000))],
    ids=["png", "wide png", "webp", "jpeg"],
)
def test_gigapixel_image_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(decode.UnreadableError, match=name):
        decode.read(str(tmp_path / name), 32)


def test_circular_links_end(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / split / name / "x.png")
            (tmp_path / split / name / "up").symlink_to("..")
            (tmp_path / split / name / "self").symlink_to("self")
        (tmp_path / split / "self").symlink_to("self")
    train, test, _ = folder.scan(str(tmp_path), 32)
    assert train.classes == test.classes == ("ant", "bee")
    assert train.files == ["ant/x.png", "bee/x.png"]
    (tmp_path / "train" / "loop").symlink_to("..")
    (tmp_path / "test" / "loop").symlink_to("..")
    folder.scan(str(tmp_path), 32)  # ends
    assert len(list(image_files([str(tmp_path / "train")]))) == 2


def test_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, link in (("../out", None), ("x", "../../out"), ("x", str(tmp_path / "out"))):
        archive = tmp_path / "bad.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member, io.BytesIO())
        with pytest.raises(RunError, match=r"bad\.tar\.gz cannot be unpacked"):
            sources._unpack(str(archive), str(tmp_path / "in"))
        assert not (tmp_path / "out").exists() and not list((tmp_path / "in").iterdir())
