"""Image folders, decoding, the cache, and the errors for folders that cannot be used."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lit.data import decode, decode_files, image_folder
from cifar_lit.data.dataset import DataSplits, Split
from cifar_lit.utils.errors import RunError, UsageError

RED, GREEN, BLUE, WHITE, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)


def save(path: Path, color: object = RED, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def noise(side: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, (side, side, 3), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, four training and two test images of 8 x 8 pixels."""
    for name, color in (("apple", RED), ("berry", BLUE)):
        for image in ("train/{}/1.png", "train/{}/2.png", "test/{}/1.png"):
            save(tmp_path / "set" / image.format(name), color)
    return tmp_path / "set"


@pytest.fixture
def load(root: Path) -> Callable[..., DataSplits]:
    def run(image_size: int = 8, num_workers: int = 0, folder: str | Path = root) -> DataSplits:
        return image_folder.load_folder(str(folder), image_size, str(root.parent / "cache"), num_workers)

    return run


def caches(root: Path) -> list[Path]:
    return [path for path in (root.parent / "cache").glob("*") if path.suffix != ".lock"]


def error(load: Callable[..., DataSplits], **arguments) -> str:
    with pytest.raises(UsageError, match=r"data\.root") as caught:
        load(**arguments)
    return str(caught.value)


def test_images_labels_and_statistics(load, root) -> None:
    Image.fromarray(noise(8)).save(root / "train" / "apple" / "3.png")
    splits = load()
    assert splits.classes == ("apple", "berry")
    assert splits.train.images.shape == (5, 8, 8, 3) and splits.test.images.shape == (2, 8, 8, 3)
    assert splits.train.images.dtype == np.uint8 and splits.train.labels.dtype == np.int64
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1] and splits.test.labels.tolist() == [0, 1]
    assert (splits.train.images[:2] == RED).all() and (splits.train.images[3:] == BLUE).all()
    assert isinstance(splits.train.images, np.memmap) and not splits.train.images.flags.writeable
    values = np.asarray(splits.train.images, np.float64) / 255
    np.testing.assert_allclose(splits.mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(splits.std, values.std((0, 1, 2)), rtol=1e-12)


def test_formats_suffixes_and_subfolders(load, root, capsys) -> None:
    apple = root / "train" / "apple"
    for name in ("a.PNG", "b.jpg", "c.JPEG", "d.webp", "deep/er/e.Jpg", "x.png"):
        save(apple / name)
    save(apple / ".hidden.png")
    save(apple / ".hidden" / "x.png")
    save(root / "train" / ".checkpoints" / "x.png")
    (apple / "notes.gif").touch()
    splits = load()
    assert np.abs(splits.train.images[:8].astype(int) - RED).max() <= 3
    names = ["1.png", "2.png", "a.PNG", "b.jpg", "c.JPEG", "d.webp", "deep/er/e.Jpg", "x.png"]
    assert splits.train.files == [f"apple/{name}" for name in names] + ["berry/1.png", "berry/2.png"]
    assert "ignoring 1 file, not PNG, JPEG or WebP (apple/notes.gif" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "color", "expected", "options"),
    [
        ("L", 128, GRAY, {}),
        ("1", 1, WHITE, {}),
        ("I;16", 128 * 257, GRAY, {}),
        ("P", 0, (0, 0, 0), {}),
        ("P", 0, WHITE, {"transparency": 0}),
        ("RGBA", (255, 0, 0, 255), RED, {}),
        ("RGBA", (255, 0, 0, 0), WHITE, {}),
        ("RGBA", (0, 0, 0, 127), GRAY, {}),
        ("LA", (0, 0), WHITE, {}),
        ("RGB", RED, WHITE, {"transparency": RED}),
    ],
)
def test_modes(tmp_path, mode, color, expected, options) -> None:
    path = save(tmp_path / "x.png", color, mode=mode, **options)
    assert (decode.decode(str(path), 8) == expected).all()


@pytest.mark.slow
def test_small_file_that_claims_a_large_size_is_not_decoded_at_that_size(tmp_path) -> None:
    path = tmp_path / "x.jpg"
    Image.new("RGB", (16, 16)).save(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xc0") + 5  # of height and width in the frame header
    content[start : start + 4] = (9000).to_bytes(2, "big") * 2
    path.write_bytes(content)
    code = """
import resource, sys
from cifar_lit.data.decode import read
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = used()
print(read(sys.argv[1], 32).shape, (used() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    shape, _, mebibytes = done.stdout.rpartition(" ")
    assert shape == "(32, 32, 3)" and int(mebibytes) < 100  # all pixels would take 243


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("side", [16, 600])  # 600: the JPEG is a large file
def test_exif_orientation(tmp_path, suffix, side) -> None:
    image = noise(side, 100)
    image[: side // 2] += 150  # the upper half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # display it rotated by 90 degrees clockwise
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(image).save(path, exif=exif)
    upright = decode.decode(str(path), 16).astype(int)
    assert upright[:, 8:].mean() - upright[:, :8].mean() > 100


@pytest.mark.parametrize("size", [(64, 32), (3, 2), (1, 400), (2000, 1000)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_any_size(tmp_path, size, suffix) -> None:
    image = decode.decode(str(save(tmp_path / f"x.{suffix}", GRAY, size)), 16)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - GRAY).max() <= 1


def test_aspect_ratio_is_kept_and_center_cropped(tmp_path) -> None:
    stripes = np.repeat(np.array([RED, GREEN, BLUE], np.uint8), 40, axis=0)[None].repeat(40, axis=0)
    Image.fromarray(stripes).save(tmp_path / "x.png")
    image = decode.decode(str(tmp_path / "x.png"), 20)
    assert (image[:, 3:-3] == GREEN).all() and (image[..., 1] > image[..., [0, 2]].max(-1)).all()


def test_downsampling_does_not_alias(tmp_path) -> None:
    checkerboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checkerboard).save(tmp_path / "x.png")
    assert np.abs(decode.decode(str(tmp_path / "x.png"), 16).astype(int) - 128).max() <= 8


@pytest.mark.parametrize("num_workers", [0, 2])
def test_decoding_keeps_the_order_and_the_global_random_state(load, root, monkeypatch, num_workers) -> None:
    monkeypatch.setattr(decode_files, "CHUNK_IMAGES", 3)
    for index in range(20):
        save(root / "train" / "apple" / f"3{index:02}.png", (index, 0, 0))
    state = torch.get_rng_state()
    splits = load(num_workers=num_workers)
    assert splits.train.images[2:22, 0, 0, 0].tolist() == list(range(20))
    assert torch.equal(state, torch.get_rng_state())


def test_cached_images_are_not_decoded_again(load, monkeypatch) -> None:
    first = load()
    monkeypatch.setattr(decode, "decode", None)
    second = load()
    assert (first.train.images == second.train.images).all()
    assert (second.mean, second.std, second.classes) == (first.mean, first.std, first.classes)


def test_pickled_split_maps_the_same_file(load) -> None:
    split = load().train
    pickled = pickle.dumps(split)
    assert split.images.tobytes() not in pickled
    loaded = pickle.loads(pickled)
    assert isinstance(loaded.images, np.memmap) and loaded.fingerprint == split.fingerprint
    part = Split(split.images[1:3], split.labels[1:3])
    assert (pickle.loads(pickle.dumps(part)).images == part.images).all()


def test_cache_is_rebuilt_when_an_image_changes(load, root) -> None:
    assert len(load().train) == 4
    new = save(root / "train" / "apple" / "0.png", GREEN, compress_level=0)
    assert (load().train.images[0] == GREEN).all()
    status = new.stat()
    save(new, BLUE, compress_level=0)
    assert new.stat().st_size == status.st_size
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert (load().train.images[0] == BLUE).all()
    new.rename(new.with_name("9.png"))
    assert (load().train.images[2] == BLUE).all()
    new.with_name("9.png").unlink()
    assert len(load().train) == 4
    assert len(caches(root)) == 1


def test_each_size_and_root_has_its_own_cache(load, root) -> None:
    other = root.parent / "other" / "set"
    shutil.copytree(root, other)
    save(other / "train" / "apple" / "1.png", GREEN)
    assert load(8).train.images.shape[1] == 8 and load(16).train.images.shape[1] == 16
    assert (load(8, folder=other).train.images[0] == GREEN).all()
    assert (load(8).train.images[0] == RED).all()
    assert len(caches(root)) == 3 and all(path.name.startswith("set-") for path in caches(root))


@pytest.mark.parametrize("name", ["x" * 245, "\u00e9" * 122])
def test_long_name_of_the_root(load, root, name) -> None:
    assert len(load(folder=root.rename(root.with_name(name))).train) == 4


@pytest.mark.parametrize("name", ["meta.json", "train_images.npy", "test_labels.npy"])
@pytest.mark.parametrize("size", [0, 10, None])
def test_corrupt_cache_is_rebuilt(load, root, name, size) -> None:
    load()
    path = caches(root)[0] / name
    if size is None:
        path.unlink()
    else:
        os.truncate(path, size)
    assert (load().train.images[:2] == RED).all()


@pytest.mark.slow
def test_killed_process_leaves_no_usable_cache(load, root) -> None:
    code = (
        "import os, cifar_lit.data.image_folder as f\n"
        "f.channel_statistics = lambda images: os._exit(9)\n"  # called when everything is decoded
        f"f.load_folder({str(root)!r}, 8, {str(root.parent / 'cache')!r}, 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 9
    (building,) = caches(root)
    assert building.suffix == ".building" and (building / "train_images.npy").exists()
    (building / "rest").touch()
    load()
    (cache,) = caches(root)
    assert cache.suffix == "" and not (cache / "rest").exists()


@pytest.mark.slow
def test_processes_that_start_together_decode_once(root) -> None:
    code = (
        "import cifar_lit.data.image_folder as f\n"
        f"splits = f.load_folder({str(root)!r}, 8, {str(root.parent / 'cache')!r}, 1)\n"
        "assert splits.train.images[0, 0, 0, 0] == 255"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 2
    assert sum("decoding" in output for output in outputs) == 1


@pytest.mark.parametrize("name", ["val", "valid"])
def test_other_names_of_the_test_folder(load, root, capsys, name) -> None:
    (root / "test").rename(root / name)
    assert len(load().test) == 2
    assert f"using {name} as the test set" in capsys.readouterr().err


def test_folder_test_is_preferred(load, root, capsys) -> None:
    shutil.copytree(root / "test", root / "valid")
    save(root / "valid" / "apple" / "7.png")
    assert len(load().test) == 2
    assert "using test as the test set (found test, valid)" in capsys.readouterr().err


def test_symbolic_links(load, root) -> None:
    (root / "train" / "berry").rename(root / "elsewhere")
    (root / "train" / "berry").symlink_to(root / "elsewhere")
    (root / "train" / "apple" / "3.png").symlink_to(root / "elsewhere" / "1.png")
    (root / "train" / "apple" / "loop").symlink_to(root / "train")
    (root / "train" / "apple" / "self").symlink_to(root / "train" / "apple" / "self")
    save(root / "more" / "deep" / "1.png", GREEN)
    (root / "more" / "back").symlink_to(root / "more")
    (root / "train" / "apple" / "more").symlink_to(root / "more")
    (root / "more" / "again").symlink_to(root / "more" / "deep")
    splits = load()
    assert splits.train.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert splits.train.files[2:4] == ["apple/3.png", "apple/more/again/1.png"]
    assert (splits.train.images[2] == BLUE).all() and (splits.train.images[3] == GREEN).all()


def test_decomposed_letters_are_the_same_class(load, root) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    save(root / "train" / composed / "1.png", GREEN)
    save(root / "train" / decomposed / "2.png", BLUE)
    save(root / "test" / decomposed / "1.png", GREEN)
    splits = load()
    assert splits.classes == ("apple", "berry", composed)
    assert splits.train.labels.tolist() == [0, 0, 1, 1, 2, 2] and splits.test.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("value", "dark"), [(4095, True), (65535, False)])
def test_12_bit_values_in_16_bit_files(load, root, capsys, value, dark) -> None:
    for path in root.glob("*/*/*.png"):
        save(path, value, mode="I;16")
    load()
    message = capsys.readouterr().err
    assert ("all images are dark, up to 16 of 255; 12-bit values in 16-bit files must be multiplied" in message) == dark


def test_root_is_not_a_folder(load, root) -> None:
    assert "--data.root" in error(load, folder="")
    assert f"data.root={root}/nowhere is not an existing folder" in error(load, folder=root / "nowhere")
    assert "is not an existing folder" in error(load, folder=root / "train" / "apple" / "1.png")


@pytest.mark.parametrize("name", ["train", "test"])
def test_missing_split(load, root, name) -> None:
    shutil.rmtree(root / name)
    message = error(load)
    assert f"data.root={root} has no folder {name}" in message and "train/<class>/" in message


@pytest.mark.parametrize("removed", [["berry"], ["apple", "berry"]])
def test_too_few_classes(load, root, removed) -> None:
    for split in ("train", "test"):
        for name in removed:
            shutil.rmtree(root / split / name)
    assert "at least two class folders" in error(load)


def test_different_classes(load, root) -> None:
    (root / "test" / "berry").rename(root / "test" / "cherry")
    message = error(load)
    assert "berry, cherry" in message and "apple" not in message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_class_name_is_not_utf8(load, root) -> None:
    for split in ("train", "test"):
        save(root / split / os.fsdecode(b"caf\xe9") / "a.png")
    assert r"'caf\udce9' is not UTF-8" in error(load)


@pytest.mark.parametrize("name", ["train", "test"])
def test_class_without_images(load, root, name) -> None:
    shutil.rmtree(root / name / "berry")
    (root / name / "berry").mkdir()
    message = error(load)
    assert f"{name}/berry contains no images" in message and "from the training and the test images" in message
    (root / name / "berry" / "deep").mkdir()
    (root / name / "berry" / "deep" / "1.BMP").touch()
    assert "convert its files such as 1.BMP, or remove the class berry" in error(load)


def test_unreadable_folder_and_broken_link(load, root) -> None:
    link = root / "train" / "apple" / "3.png"
    link.symlink_to("nowhere")
    assert f"{link} cannot be read: {os.strerror(errno.ENOENT)}" in error(load)
    link.unlink()
    link.parent.chmod(0)
    if os.access(link.parent, os.R_OK):
        pytest.skip("this user may read everything")
    message = error(load)
    link.parent.chmod(0o700)
    assert f"train/apple cannot be read: {os.strerror(errno.EACCES)}" in message


def test_unreadable_images_are_named_and_not_cached(load, root) -> None:
    apple = root / "train" / "apple"
    (apple / "a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (apple / "b.jpg").write_text("<html>")
    Image.new("RGB", (10, 10)).save(apple / "c.png", format="GIF")
    save(apple / "d.jpg" / "x.png")  # in a subfolder with the name of an image
    for path in (apple / "e.jpg", apple / "f.webp", root / "test" / "apple" / "g.png"):
        os.truncate(save(path, size=(99, 99)), path.stat().st_size - 30)
    message = error(load)
    assert "data.root: 6 unreadable images; remove or repair" in message
    for name in (
        "a.png: the file is a pointer of Git LFS",
        "b.jpg: not a PNG",
        "c.png: not a PNG",
        "e.jpg: ",
        "f.webp: ",
    ):
        assert f"train/apple/{name}" in message
    (listed,) = caches(root)
    assert "/g.png" not in message and message.endswith(f"... all are listed in {listed}")
    lines = listed.read_text().splitlines()
    assert len(lines) == 6 and "test/apple/g.png: " in lines[5]
    for name in ("a.png", "b.jpg", "c.png", "e.jpg", "f.webp"):
        (apple / name).unlink()
    assert error(load).count("\n") == 1
    assert caches(root) == []


@pytest.mark.parametrize("cut", [2, 100, 3000])
@pytest.mark.parametrize("side", [32, 400])
def test_truncated_jpeg_is_unreadable(tmp_path, cut, side) -> None:
    path = tmp_path / "3.jpg"
    Image.fromarray(noise(side)).save(path, quality=95)
    os.truncate(path, max(path.stat().st_size - cut, 300))
    with pytest.raises(decode.UnreadableError, match=r"3\.jpg"):
        decode.read(str(path), side)


@pytest.mark.parametrize("side", [9_500, 14_000])  # where Pillow warns, and where it raises
def test_decompression_bomb_is_unreadable(tmp_path, side) -> None:
    path = save(tmp_path / "bomb.png", 0, (side, side), mode="1")
    with pytest.raises(decode.UnreadableError, match=r"bomb\.png: "):
        decode.read(str(path), 32)


def test_cache_folder_is_not_writable(root) -> None:
    (root.parent / "file").touch()
    with pytest.raises(RunError, match=r"data\.cache_dir=.*file/cache"):
        image_folder.load_folder(str(root), 8, str(root.parent / "file" / "cache"), 0)


def test_full_disk_keeps_the_earlier_cache(load, root, monkeypatch) -> None:
    first = load()
    save(root / "train" / "apple" / "0.png")
    monkeypatch.setattr(image_folder, "decode_all", lambda *_: Path("/dev/full").write_text("x" * 100_000))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        load()
    (cache,) = caches(root)
    assert (np.load(cache / "train_images.npy") == first.train.images).all()
