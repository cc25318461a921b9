"""Folders of real images, their cache, and what the user is told about folders that will not do."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lit.data.datamodule import decode
from cifar_lit.data.datamodule import image_folder as folder
from cifar_lit.data.dataset import DataSplits, Split
from cifar_lit.utils.errors import RunError, UsageError

RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)


def paint(path: Path, colour: object = RED, size: tuple[int, int] = (8, 8), mode: str = "RGB", **save) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **save)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, four training and two test images of 8 x 8 pixels."""
    root = tmp_path / "set"
    for name, colour in (("apple", RED), ("berry", BLUE)):
        paint(root / "train" / name / "1.png", colour)
        paint(root / "train" / name / "2.png", colour)
        paint(root / "test" / name / "1.png", colour)
    return root


@pytest.fixture
def load(root: Path) -> Callable[..., DataSplits]:
    def run(image_size: int = 8, num_workers: int = 0, where: str | Path = root) -> DataSplits:
        return folder.load_folder(str(where), image_size, str(root.parent / "cache"), num_workers)

    return run


def caches(root: Path) -> list[Path]:
    """Return what lies in the folder of caches, without the locks."""
    return [path for path in (root.parent / "cache").glob("*") if path.suffix != ".lock"]


def complaint(load: Callable[..., DataSplits], **arguments) -> str:
    with pytest.raises(UsageError) as caught:
        load(**arguments)
    return str(caught.value)


def test_images_labels_and_statistics(load) -> None:
    splits = load()
    assert splits.classes == ("apple", "berry")
    assert splits.train.images.shape == (4, 8, 8, 3) and splits.test.images.shape == (2, 8, 8, 3)
    assert splits.train.images.dtype == np.uint8 and splits.train.labels.dtype == np.int64
    assert splits.train.labels.tolist() == [0, 0, 1, 1] and splits.test.labels.tolist() == [0, 1]
    assert (splits.train.images[:2] == RED).all() and (splits.train.images[2:] == BLUE).all()
    assert isinstance(splits.train.images, np.memmap) and not splits.train.images.flags.writeable
    assert splits.mean == (0.5, 0, 0.5) and splits.std == (0.5, 0, 0.5)
    assert splits.test.files == ["apple/1.png", "berry/1.png"] and len(splits.train.files) == 4


def test_statistics_agree_with_plain_numpy(load, root) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(root / "train" / "apple" / "noise.png")
    splits = load()
    values = np.asarray(splits.train.images, np.float64) / 255
    np.testing.assert_allclose(splits.mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(splits.std, values.std((0, 1, 2)), rtol=1e-12)


def test_formats_suffixes_and_sub_folders(load, root) -> None:
    apple = root / "train" / "apple"
    for name in ("a.PNG", "b.jpg", "c.JPEG", "d.webp", "deep/er/e.Jpg"):
        paint(apple / name)
    paint(apple / ".hidden.png")
    paint(apple / ".hidden" / "x.png")
    paint(root / "train" / ".checkpoints" / "x.png")
    (apple / "notes.txt").write_text("no image")
    splits = load()
    assert np.abs(splits.train.images[:7].astype(int) - RED).max() <= 3
    assert splits.train.labels.tolist() == [0] * 7 + [1] * 2
    files = (caches(root)[0] / "train_files.txt").read_text().split("\0")
    names = ["1.png", "2.png", "a.PNG", "b.jpg", "c.JPEG", "d.webp", "deep/er/e.Jpg"]
    assert files == [f"apple/{name}" for name in names] + ["berry/1.png", "berry/2.png"]


@pytest.mark.parametrize(
    ("mode", "colour", "expected", "save"),
    [
        ("L", 128, GREY, {}),
        ("1", 1, WHITE, {}),
        ("I;16", 128 * 257, GREY, {}),
        ("P", 0, (0, 0, 0), {}),
        ("P", 0, WHITE, {"transparency": 0}),
        ("RGBA", (255, 0, 0, 255), RED, {}),
        ("RGBA", (255, 0, 0, 0), WHITE, {}),
        ("RGBA", (0, 0, 0, 127), GREY, {}),
        ("LA", (0, 0), WHITE, {}),
        ("RGB", RED, WHITE, {"transparency": RED}),
    ],
)
def test_modes(tmp_path, mode, colour, expected, save) -> None:
    path = paint(tmp_path / "x.png", colour, mode=mode, **save)
    assert (decode.decode(str(path), 8) == expected).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_small_and_other_jpegs_give_the_same_pixels(tmp_path, mode, monkeypatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    path = tmp_path / "x.jpg"
    Image.fromarray(noise).convert(mode).save(path, quality=80)
    small = decode.decode(str(path), 32)
    monkeypatch.setattr(decode, "SMALL", 1)
    assert np.abs(small.astype(int) - decode.decode(str(path), 32)).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("side", [16, 600])  # 600: noise makes the JPEG a large file
def test_exif_orientation(tmp_path, suffix, side) -> None:
    noise = np.random.default_rng(0).integers(0, 100, (side, side, 3), np.uint8)
    noise[: side // 2] += 150  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise).save(path, exif=exif)
    upright = decode.decode(str(path), 16).astype(int)
    assert upright[:, 8:].mean() - upright[:, :8].mean() > 100  # bright at the right


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (3, 2), (1, 400), (2000, 1000)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_other_sizes_are_covered_and_cropped(tmp_path, size, suffix) -> None:
    image = decode.decode(str(paint(tmp_path / f"x.{suffix}", GREY, size)), 16)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - GREY).max() <= 1


def test_aspect_is_kept_and_the_middle_cut_out(tmp_path) -> None:
    stripes = np.repeat(np.array([RED, GREEN, BLUE], np.uint8), 40, axis=0)[None].repeat(40, axis=0)
    Image.fromarray(stripes).save(tmp_path / "x.png")
    image = decode.decode(str(tmp_path / "x.png"), 20)
    assert (image[:, 3:-3] == GREEN).all() and (image[..., 1] > image[..., [0, 2]].max(-1)).all()


def test_shrinking_does_not_alias(tmp_path) -> None:
    chess = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(chess).save(tmp_path / "x.png")
    assert np.abs(decode.decode(str(tmp_path / "x.png"), 16).astype(int) - 128).max() <= 8


@pytest.mark.parametrize("num_workers", [0, 2])
def test_several_chunks_keep_their_order(load, root, monkeypatch, num_workers) -> None:
    monkeypatch.setattr(decode, "CHUNK", 3)
    for index in range(20):
        paint(root / "train" / "apple" / f"3{index:02}.png", (index, 0, 0))
    state = torch.get_rng_state()
    splits = load(num_workers=num_workers)
    assert splits.train.images[2:22, 0, 0, 0].tolist() == list(range(20))
    assert torch.equal(state, torch.get_rng_state()), "a first run must give the results of later ones"


def test_second_run_does_not_decode(load, root, monkeypatch) -> None:
    first = load()
    before = {path: path.stat().st_mtime_ns for path in caches(root)[0].iterdir()}
    monkeypatch.setattr(decode, "decode", None)
    second = load()
    assert (first.train.images == second.train.images).all()
    assert (second.mean, second.std, second.classes) == (first.mean, first.std, first.classes)
    assert before == {path: path.stat().st_mtime_ns for path in caches(root)[0].iterdir()}


def test_other_processes_map_the_same_cache(load) -> None:
    split = load().train
    sent = pickle.dumps(split)
    assert split.images.tobytes() not in sent
    again = pickle.loads(sent)
    assert isinstance(again.images, np.memmap) and again.fingerprint == split.fingerprint
    part = Split(split.images[1:3], split.labels[1:3])
    assert (pickle.loads(pickle.dumps(part)).images == part.images).all()


def test_rebuilt_when_a_image_comes_changes_or_goes(load, root) -> None:
    assert len(load().train) == 4
    new = paint(root / "train" / "apple" / "0.png", GREEN, compress_level=0)
    assert (load().train.images[0] == GREEN).all()
    status = new.stat()
    paint(new, BLUE, compress_level=0)
    assert new.stat().st_size == status.st_size
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert (load().train.images[0] == BLUE).all()
    new.rename(new.with_name("9.png"))
    assert (load().train.images[2] == BLUE).all()
    new.with_name("9.png").unlink()
    assert len(load().train) == 4
    assert len(caches(root)) == 1


def test_each_size_and_each_root_has_its_cache(load, root) -> None:
    shutil.copytree(root, root.parent / "other" / "set")
    paint(root.parent / "other" / "set" / "train" / "apple" / "1.png", GREEN)
    assert load(8).train.images.shape[1] == 8
    assert load(16).train.images.shape[1] == 16
    assert (load(8, where=root.parent / "other" / "set").train.images[0] == GREEN).all()
    assert (load(8).train.images[0] == RED).all()
    assert len(caches(root)) == 3 and all(path.name.startswith("set-") for path in caches(root))


@pytest.mark.parametrize("name", ["meta.json", "train_images.npy", "test_labels.npy"])
@pytest.mark.parametrize("keep", [0, 10, None])
def test_spoilt_cache_is_rebuilt(load, root, name, keep) -> None:
    load()
    path = caches(root)[0] / name
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep])
    assert (load().train.images[:2] == RED).all()


def test_half_written_cache_of_a_killed_run_is_not_used(root) -> None:
    code = (
        "import os, cifar_lit.folder as f\n"
        "f.channel_statistics = lambda images: os._exit(9)\n"  # dies when all is decoded
        f"f.load_folder({str(root)!r}, 8, {str(root.parent / 'cache')!r}, 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 9
    (left,) = caches(root)
    assert left.suffix == ".building" and (left / "train_images.npy").exists()
    (left / "rest").touch()
    folder.load_folder(str(root), 8, str(root.parent / "cache"), 0)
    (cache,) = caches(root)
    assert cache.suffix == "" and not (cache / "rest").exists()


def test_processes_that_start_together_build_once(root) -> None:
    cache = root.parent / "cache"
    code = (
        "import cifar_lit.folder as f\n"
        f"images = f.load_folder({str(root)!r}, 8, {str(cache)!r}, 1)\n"
        "assert images.train.images[0, 0, 0, 0] == 255"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    shown = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert sum("decoding" in text for text in shown) == 1


def test_meta_tells_what_is_in_the_cache(load, root) -> None:
    load()
    meta = json.loads((caches(root)[0] / "meta.json").read_text())
    assert meta["classes"] == ["apple", "berry"] and meta["images"] == {"train": 4, "test": 2}
    assert meta["mean"] == [0.5, 0, 0.5] and meta["image_size"] == 8


@pytest.mark.parametrize("name", ["val", "valid"])
def test_other_names_for_test_are_used_and_told(load, root, capsys, name) -> None:
    (root / "test").rename(root / name)
    assert len(load().test) == 2
    assert f"testing on {name}" in capsys.readouterr().err


def test_test_is_preferred_and_told_if_there_are_several(load, root, capsys) -> None:
    shutil.copytree(root / "test", root / "valid")
    paint(root / "valid" / "apple" / "7.png")
    assert len(load().test) == 2
    assert "testing on test, of test, valid" in capsys.readouterr().err


def test_linked_class_folder_and_image_are_followed(load, root) -> None:
    (root / "train" / "berry").rename(root / "elsewhere")
    (root / "train" / "berry").symlink_to(root / "elsewhere")
    (root / "train" / "apple" / "3.png").symlink_to(root / "elsewhere" / "1.png")
    splits = load()
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert (splits.train.images[2] == BLUE).all()


def test_loop_of_links_ends(load, root) -> None:
    (root / "train" / "apple" / "loop").symlink_to(root / "train")
    (root / "train" / "apple" / "self").symlink_to(root / "train" / "apple" / "self")
    assert len(load().train) == 4


@pytest.mark.parametrize("where", ["", None])
def test_root_not_given(where) -> None:
    with pytest.raises(UsageError, match=r"--data\.root"):
        folder.load_folder(where, 8, "cache", 0)


def test_root_missing(load, root) -> None:
    assert complaint(load, where=root / "nowhere").startswith(f"data.root={root}/nowhere does not exist")


def test_root_is_a_file(load, root) -> None:
    assert "is not a folder" in complaint(load, where=root / "train" / "apple" / "1.png")


@pytest.mark.parametrize("name", ["train", "test"])
def test_split_missing(load, root, name) -> None:
    shutil.rmtree(root / name)
    message = complaint(load)
    assert f"data.root={root} has no folder {name}" in message and "train/<class>/" in message


def test_splits_empty(load, root) -> None:
    for name in ("train", "test"):
        shutil.rmtree(root / name)
        (root / name).mkdir()
    message = complaint(load)
    assert "data.root" in message and "at least two class folders" in message


def test_one_class_only(load, root) -> None:
    for name in ("train", "test"):
        shutil.rmtree(root / name / "berry")
    message = complaint(load)
    assert "data.root" in message and "at least two" in message and "apple" in message


def test_classes_differ(load, root) -> None:
    (root / "test" / "berry").rename(root / "test" / "cherry")
    message = complaint(load)
    assert "data.root" in message and "berry, cherry" in message and "apple" not in message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_class_of_another_encoding(load, root) -> None:
    for split in ("train", "test"):
        paint(root / split / os.fsdecode(b"caf\xe9") / "a.png")
    with pytest.raises(UsageError, match=r"'caf\\udce9' is not UTF-8; rename it"):
        load()


@pytest.mark.parametrize("name", ["train", "test"])
def test_class_without_images(load, root, name) -> None:
    (root / name / "berry" / "1.png").rename(root / name / "berry" / "1.gif")
    (root / name / "berry" / "2.png").unlink(missing_ok=True)
    message = complaint(load)
    assert "data.root" in message and f"{name}/berry holds no images" in message


def test_folder_may_not_be_read(load, root) -> None:
    (root / "train" / "apple").chmod(0)
    if os.access(root / "train" / "apple", os.R_OK):
        pytest.skip("this user may read everything")
    message = complaint(load)
    (root / "train" / "apple").chmod(0o700)
    assert "data.root" in message and "train/apple may not be read" in message


def test_unreadable_images_are_named_and_leave_no_cache(load, root) -> None:
    apple = root / "train" / "apple"
    (apple / "a.png").write_bytes(b"")
    (apple / "b.jpg").write_text("<html>")
    Image.new("RGB", (10, 10)).save(apple / "c.png", format="GIF")
    (apple / "d.png").symlink_to("nowhere")
    (apple / "e.jpg").mkdir()  # a folder of that name is walked, not read
    paint(apple / "e.jpg" / "x.png")
    whole = paint(apple / "f.jpg", size=(100, 100)).read_bytes()
    (apple / "f.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "apple" / "g.png").write_bytes(paint(root / "x.png", size=(99, 99)).read_bytes()[:-30])
    message = complaint(load)
    assert "data.root: 6 unreadable images; remove or repair them" in message
    for name in ("a.png: no PNG", "b.jpg: no PNG", "c.png: no PNG", "d.png: No such file", "f.jpg: "):
        assert f"train/apple/{name}" in message
    assert "g.png" not in message and message.endswith("...")
    assert caches(root) == []


@pytest.mark.parametrize("cut", [2, 100, 3000])
@pytest.mark.parametrize("side", [32, 400])
def test_truncated_jpeg_is_unreadable(load, root, cut, side) -> None:
    path = root / "train" / "apple" / "3.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(len(whole) - cut, 300)])
    message = complaint(load)
    assert "1 unreadable" in message and "3.jpg" in message


@pytest.mark.parametrize("side", [9_500, 14_000])  # where Pillow warns, and where it refuses
def test_decompression_bomb_is_unreadable(load, root, side) -> None:
    paint(root / "train" / "apple" / "bomb.png", 0, (side, side), mode="1")
    assert "bomb.png: Image size" in complaint(load)


def test_unwritable_cache(root) -> None:
    (root.parent / "file").touch()
    with pytest.raises(RunError, match=r"data\.cache_dir=.*file/cache"):
        folder.load_folder(str(root), 8, str(root.parent / "file" / "cache"), 0)


def test_full_disk_surfaces_and_leaves_no_half_cache(load, root, monkeypatch) -> None:
    first = load()
    paint(root / "train" / "apple" / "0.png")
    monkeypatch.setattr(folder, "decode_all", lambda *_: open("/dev/full", "w").write("x" * 100_000))
    with pytest.raises(OSError, match="No space left"):
        load()
    (cache,) = caches(root)
    assert (np.load(cache / "train_images.npy") == first.train.images).all()


def test_large_images_come_in_small_chunks(load, root) -> None:
    (listing, _, _) = folder.scan(str(root), 2048)
    chunks = decode.Chunks(listing, 2048)
    assert len(chunks) == 4
    assert chunks[0][0].nbytes <= decode.CHUNK_BYTES


def test_scan_of_many_files_is_fast(root) -> None:
    apple = root / "train" / "apple"
    for index in range(3000):
        os.link(apple / "1.png", apple / f"x{index}.png")
    start = time.process_time()
    folder.scan(str(root), 8)
    assert time.process_time() - start < 0.5


def test_files_of_other_kinds_are_left_out_and_told(load, root, capsys) -> None:
    (root / "train" / "apple" / "notes.gif").write_bytes(b"GIF89a")
    assert len(load().train) == 4
    assert "1 files left out, no PNG, JPEG or WebP (apple/notes.gif" in capsys.readouterr().err
