"""The sources as a whole; the CIFAR archives are tiny ones, made here in the format of the real ones."""

import hashlib
import pickle
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from cifar_lit.data.dataset import DataSplits
from cifar_lit.data.sources import load
from cifar_lit.utils.errors import RunError, UsageError

KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=KINDS)
def archive(request, tmp_path, monkeypatch) -> Path:
    """Make an archive of few images, and let torchvision take it for the real one."""
    kind = KINDS[request.param]
    folder = tmp_path / "made" / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = {kind.meta["key"]: [f"class {index}" for index in range(10 if kind is CIFAR10 else 100)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))
    for name, _ in [*kind.train_list, *kind.test_list]:
        data = rng.integers(0, 256, (4, 3072), np.uint8)
        labels = {"labels" if kind is CIFAR10 else "fine_labels": [0, 1, 2, len(names[kind.meta["key"]]) - 1]}
        (folder / name).write_bytes(pickle.dumps({"data": data, **labels}))
    path = tmp_path / "made" / kind.filename
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, kind.base_folder)
    for splits in ("train_list", "test_list"):
        sums = [[name, md5(folder / name)] for name, _ in getattr(kind, splits)]
        monkeypatch.setattr(kind, splits, sums)
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(folder / kind.meta["filename"])})
    monkeypatch.setattr(kind, "tgz_md5", md5(path))
    monkeypatch.setattr(kind, "url", path.as_uri())
    return path


@pytest.fixture
def source(archive: Path) -> str:
    return "cifar100" if "100" in archive.name else "cifar10"


def check(splits: DataSplits, source: str, archive: Path) -> None:
    classes = 10 if source == "cifar10" else 100
    assert splits.classes == tuple(f"class {index}" for index in range(classes))
    assert len(splits.train) == (20 if source == "cifar10" else 4) and len(splits.test) == 4
    for split in (splits.train, splits.test):
        assert split.images.shape == (len(split), 32, 32, 3) and split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64 and split.labels[:4].tolist() == [0, 1, 2, classes - 1]
    kind = KINDS[source]
    with open(archive.parent / kind.base_folder / kind.test_list[0][0], "rb") as file:
        planes = pickle.load(file)["data"].reshape(-1, 3, 32, 32)
    assert (splits.test.images == planes.transpose(0, 2, 3, 1)).all()
    values = splits.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(splits.mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(splits.std, values.std((0, 1, 2)), rtol=1e-12)


def test_cifar_is_downloaded_unpacked_and_read(source, archive, tmp_path) -> None:
    check(load(source, str(tmp_path / "data"), 32), source, archive)
    assert md5(tmp_path / "data" / archive.name) == md5(archive)


def test_unpacked_cifar_needs_no_archive(source, archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(KINDS[source], "url", "file:///nowhere")
    check(load(source, str(archive.parent), 32), source, archive)
    archive.unlink()
    check(load(source, str(archive.parent), 32), source, archive)
    assert [path for path in archive.parent.iterdir() if path.is_file()] == []


def test_archive_that_lies_there_needs_no_network(source, archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(KINDS[source], "url", "file:///nowhere")
    (tmp_path / "data").mkdir()
    archive.rename(tmp_path / "data" / archive.name)
    check(load(source, str(tmp_path / "data"), 32), source, archive)


def test_damaged_unpacked_file_is_unpacked_again(source, archive, tmp_path) -> None:
    root = tmp_path / "data"
    load(source, str(root), 32)
    kind = KINDS[source]
    for name in (kind.train_list[0][0], kind.meta["filename"]):
        (root / kind.base_folder / name).write_bytes(b"cut off")
        check(load(source, str(root), 32), source, archive)


def test_mirror_is_an_address_or_a_folder(source, archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(KINDS[source], "url", "file:///nowhere")
    check(load(source, str(tmp_path / "a"), 32, mirrors=[archive.as_uri()]), source, archive)
    check(load(source, str(tmp_path / "b"), 32, mirrors=[archive.parent.as_uri() + "/"]), source, archive)


def test_no_address_works(source, archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(KINDS[source], "url", "file:///nowhere")
    with pytest.raises(RunError) as caught:
        load(source, str(tmp_path / "data"), 32, mirrors=["file:///neither"])
    message = str(caught.value)
    assert message.index("file:///neither: ") < message.index("file:///nowhere: ")
    assert KINDS[source].tgz_md5 in message and str(tmp_path / "data" / archive.name) in message


def test_nothing_is_downloaded_into_a_folder_of_images(source, archive, tmp_path) -> None:
    for name in ("train", "val"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"--data\.source folder"):
        load(source, str(tmp_path / "mine"), 32)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["train", "val"]
    archive.rename(tmp_path / "mine" / archive.name)
    check(load(source, str(tmp_path / "mine"), 32), source, archive)


def test_loads_that_start_together_unpack_once(source, archive, tmp_path) -> None:
    loaded: list[DataSplits] = []
    threads = [
        threading.Thread(target=lambda: loaded.append(load(source, str(tmp_path / "data"), 32))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    for splits in loaded:
        check(splits, source, archive)


@pytest.mark.parametrize("size", [16, 48])
def test_cifar_at_another_size(source, archive, tmp_path, size) -> None:
    same = load(source, str(archive.parent), 32)
    other = load(source, str(archive.parent), size)
    assert other.train.images.shape == (len(same.train), size, size, 3)
    assert other.train.images.dtype == np.uint8
    means = [p.train.images.mean((1, 2)) for p in (same, other)]
    np.testing.assert_allclose(means[0], means[1], atol=2)


def test_cifar_root_that_cannot_be_a_folder(source, archive) -> None:
    with pytest.raises(UsageError, match=r"data\.root="):
        load(source, str(archive), 32)
    with pytest.raises(UsageError, match=r"--data\.root"):
        load(source, "", 32)


def test_digits() -> None:
    splits = load("digits", "", 32)
    assert splits.classes == tuple("0123456789")
    assert splits.train.images.shape == (1437, 32, 32, 3) and splits.test.images.shape == (360, 32, 32, 3)
    assert splits.train.images.dtype == np.uint8 and splits.train.labels.dtype == np.int64
    assert splits.train.images.min() == 0 and splits.train.images.max() == 255
    assert (np.ptp(splits.train.images, axis=-1) == 0).all()
    assert set(np.bincount(splits.test.labels)) <= {35, 36, 37}


def test_digits_are_the_same_each_time_and_distinct_between_splits() -> None:
    first, second = load("digits", "", 8), load("digits", "", 8)
    assert (first.test.images == second.test.images).all()
    assert (first.train.labels == second.train.labels).all()
    train, test = ({image.tobytes() for image in split.images} for split in (first.train, first.test))
    assert not train & test


def test_digits_keep_their_shape_when_enlarged() -> None:
    small, large = load("digits", "", 8), load("digits", "", 32)
    shrunk = large.train.images.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4))
    assert np.corrcoef(shrunk.ravel(), small.train.images.ravel())[0, 1] > 0.97


def test_folder(tmp_path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            Image.new("RGB", (5, 5), "white").save(tmp_path / "set" / split / name / "1.png")
    splits = load("folder", str(tmp_path / "set"), 4, cache_dir=str(tmp_path / "cache"))
    assert (splits.train.images == np.full((2, 4, 4, 3), 255)).all()
    assert len(list((tmp_path / "cache").iterdir())) >= 1


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "folder", "digits"])
@pytest.mark.parametrize("size", [0, -3])
def test_impossible_image_size(source, size) -> None:
    with pytest.raises(UsageError, match=rf"data\.image_size={size}"):
        load(source, "data", size)


def test_unknown_source() -> None:
    with pytest.raises(UsageError, match=r"data\.source='mnist'"):
        load("mnist", "data", 32)


def test_import_is_light() -> None:
    code = "import sys, cifar_lit.sources; print({'torch', 'torchvision', 'sklearn'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
