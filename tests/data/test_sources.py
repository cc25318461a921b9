"""The data sources; the CIFAR archives are tiny ones in the original format."""

import hashlib
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from cifar_lit.data import download, sources
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.dataset import DataSplits
from cifar_lit.data.sources import SourceOptions, load
from cifar_lit.utils.errors import RunError, UsageError

KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=KINDS)
def archive(request, tmp_path, monkeypatch) -> Path:
    """A tiny archive that torchvision accepts as the original."""
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


def check(source: str, archive: Path, root: Path, **options) -> None:
    splits = load(source, SourceOptions(str(root), 32, **options))
    kind = KINDS[source]
    count = 10 if source == "cifar10" else 100
    assert splits.classes == tuple(f"class {index}" for index in range(count))
    assert len(splits.train) == (20 if source == "cifar10" else 4) and len(splits.test) == 4
    for split in (splits.train, splits.test):
        assert split.images.shape == (len(split), 32, 32, 3) and split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64 and split.labels[:4].tolist() == [0, 1, 2, count - 1]
    with open(archive.parent / kind.base_folder / kind.test_list[0][0], "rb") as file:
        planes = pickle.load(file)["data"].reshape(-1, 3, 32, 32)
    assert (splits.test.images == planes.transpose(0, 2, 3, 1)).all()
    values = splits.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(splits.mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(splits.std, values.std((0, 1, 2)), rtol=1e-12)


def test_cifar_is_downloaded_once(source, archive, tmp_path, monkeypatch) -> None:
    check(source, archive, tmp_path / "data")
    assert md5(tmp_path / "data" / archive.name) == md5(archive)
    monkeypatch.setattr(KINDS[source], "url", "file:///nowhere")
    check(source, archive, tmp_path / "data")


@pytest.mark.parametrize("existing", ["archive", "unpacked folder"])
def test_existing_cifar_is_not_downloaded(source, archive, tmp_path, monkeypatch, existing) -> None:
    monkeypatch.setattr(KINDS[source], "url", "file:///nowhere")
    root = tmp_path / "data"
    root.mkdir()
    if existing == "archive":
        shutil.copy(archive, root)
    else:
        folder = KINDS[source].base_folder
        shutil.copytree(archive.parent / folder, root / folder)
    check(source, archive, root)


def test_corrupt_file_is_unpacked_again(source, archive, tmp_path) -> None:
    kind = KINDS[source]
    check(source, archive, tmp_path)
    for name in (kind.train_list[0][0], kind.meta["filename"]):
        (tmp_path / kind.base_folder / name).write_bytes(b"cut off")
        check(source, archive, tmp_path)


def test_nothing_is_downloaded_on_request(source, archive, tmp_path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        load(source, SourceOptions(str(tmp_path / "new"), 32, download=False))
    assert not (tmp_path / "new").exists()
    load(source, SourceOptions(str(archive.parent), 32, download=False))


def test_mirrors(source, archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(KINDS[source], "url", "file:///nowhere")
    check(source, archive, tmp_path / "a", mirrors=[archive.as_uri()])
    check(source, archive, tmp_path / "b", mirrors=["file:///neither", archive.parent.as_uri() + "/"])
    with pytest.raises(RunError) as caught:
        check(source, archive, tmp_path / "c", mirrors=["file:///neither"])
    message = str(caught.value)
    assert message.index("file:///neither: ") < message.index("file:///nowhere: ")
    assert KINDS[source].tgz_md5 in message and str(tmp_path / "c" / archive.name) in message


def test_nothing_is_downloaded_into_an_image_folder(source, archive, tmp_path) -> None:
    root = tmp_path / "images"
    for name in ("train", "val"):
        (root / name).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"--data\.source folder"):
        check(source, archive, root)
    assert sorted(path.name for path in root.iterdir()) == ["train", "val"]
    archive.rename(root / archive.name)
    check(source, archive, root)


def test_folder_of_the_files_themselves_is_refused(source, archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(KINDS[source], "url", "file:///nowhere")
    load(source, SourceOptions(str(archive.parent), 32))
    inside = archive.parent / KINDS[source].base_folder
    before = sorted(inside.rglob("*"))
    with pytest.raises(UsageError, match=f"such as --data.root {archive.parent}$"):
        load(source, SourceOptions(str(inside), 32))
    assert sorted(inside.rglob("*")) == before


def test_loads_that_start_together_download_once(source, archive, tmp_path, monkeypatch) -> None:
    transfers = []
    transfer = download._transfer
    monkeypatch.setattr(download, "_transfer", lambda *args: transfers.append(args) or transfer(*args))
    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(check, source, archive, tmp_path / "data") for _ in range(4)]:
            result.result()
    assert len(transfers) == 1


@pytest.mark.parametrize("size", [16, 48])
def test_cifar_at_another_size(source, archive, size) -> None:
    original, resized = (load(source, SourceOptions(str(archive.parent), s)).train.images for s in (32, size))
    assert resized.shape == (len(original), size, size, 3) and resized.dtype == np.uint8
    np.testing.assert_allclose(original.mean((1, 2)), resized.mean((1, 2)), atol=2)


def test_cifar_root_is_not_a_folder(source, archive) -> None:
    with pytest.raises(UsageError, match=r"data\.root="):
        load(source, SourceOptions(str(archive), 32))
    with pytest.raises(UsageError, match=r"--data\.root"):
        load(source, SourceOptions("", 32))


def test_digits() -> None:
    splits, small = (load("digits", SourceOptions("", size)) for size in (32, 8))
    assert splits.classes == tuple("0123456789")
    assert splits.train.images.shape == (1437, 32, 32, 3) and splits.test.images.shape == (360, 32, 32, 3)
    assert splits.train.images.dtype == np.uint8 and splits.train.labels.dtype == np.int64
    assert splits.train.images.min() == 0 and splits.train.images.max() == 255
    assert (np.ptp(splits.train.images, axis=-1) == 0).all()
    assert set(np.bincount(splits.test.labels)) <= {35, 36, 37}
    assert not {i.tobytes() for i in small.train.images} & {i.tobytes() for i in small.test.images}
    shrunk = splits.train.images.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4))
    assert np.corrcoef(shrunk.ravel(), small.train.images.ravel())[0, 1] > 0.97


def test_folder(tmp_path) -> None:
    for path in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "set" / path).mkdir(parents=True)
        Image.new("RGB", (5, 5), "white").save(tmp_path / "set" / path / "1.png")
    splits = load("folder", SourceOptions(str(tmp_path / "set"), 4, cache_dir=str(tmp_path / "cache")))
    assert (splits.train.images == np.full((2, 4, 4, 3), 255)).all()
    assert list((tmp_path / "cache").iterdir())


def test_unknown_source() -> None:
    with pytest.raises(UsageError, match=r"data\.source must be one of cifar10, .*, got mnist"):
        load("mnist", SourceOptions("data", 32))


def test_registered_source_is_available(splits: DataSplits, monkeypatch) -> None:
    monkeypatch.setitem(sources.SOURCES, "random", sources.Source(lambda options: splits))
    assert ImageDataModule("random", val_size=20).num_classes == 3
