"""Image folders with one folder per class, decoded once into a memory-mapped cache.

The cache is rebuilt when an image is added, removed or changed (name, size or modification time).
"""

import hashlib
import json
import os
import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cifar_lit.data.dataset import DataSplits, Split, channel_statistics
from cifar_lit.data.decode_files import Listing, decode_all
from cifar_lit.data.image_files import SUFFIXES, print_ignored, walk
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.files import atomic_write_text, file_lock, fsync_dir
from cifar_lit.utils.output import print_once
from cifar_lit.utils.text import counted

TEST_FOLDERS = ("test", "val", "valid")  # the first existing one is used
VERSION = 4  # of the cache; increase it when decoding or the format of the cache changes


def load_folder(
    root: str, image_size: int, cache_dir: str, num_workers: int, timeout_s: int = 600, test_only: bool = False
) -> DataSplits:
    """Load `root/train/<class>/*` and `root/test/<class>/*` (or `val`, or `valid`) through the cache.

    Args:
        root: The folder with the splits.
        image_size: Height and width in pixels; images are resized and center-cropped.
        cache_dir: The folder of the caches; this one is `<name of root>-<hash>`.
        num_workers: Processes that decode images; 0 decodes in the calling process.
        timeout_s: How long to wait for one of them, in seconds.
        test_only: Whether to load no training images; `root/<class>/*` is then enough.

    Returns:
        Read-only memory maps of the decoded images.

    Raises:
        UsageError: The folder has another layout, or images are unreadable.
        RunError: The cache cannot be written, or a process does not answer.
        OSError: The disk is full.
    """
    if not root:
        raise UsageError("data.root is empty: set --data.root to the folder with the images")
    root = os.path.realpath(os.path.expanduser(root))
    train, test, fingerprint = scan(root, image_size, test_only)
    kind = "\0test" if test_only else ""
    digest = hashlib.blake2b(os.fsencode(f"{root}\0{image_size}{kind}"), digest_size=4).hexdigest()
    name = os.fsencode(os.path.basename(root))[:200].decode(errors="ignore")  # with suffixes, at most 255 bytes
    cache = Path(os.path.expanduser(cache_dir), f"{name}-{digest}")
    if splits := _open(cache, fingerprint):  # without the lock, so that a read-only cache is usable
        return splits
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(f"{cache}.lock"):
            if not (splits := _open(cache, fingerprint)):  # another process may have built it meanwhile
                _build(cache, {"train": train, "test": test}, fingerprint, image_size, num_workers, timeout_s)
                splits = _open(cache, fingerprint)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise RunError(f"data.cache_dir={cache_dir}: {error.strerror}; use a writable folder") from error
    assert splits
    return splits


def scan(root: str, image_size: int, test_only: bool = False) -> tuple[Listing, Listing, str]:
    """List the images of both splits.

    Returns:
        The training images (none if `test_only`), the test images, and a fingerprint of their files and of how they
        will be decoded.

    Raises:
        UsageError: A split is missing, empty or not readable, or the splits have different classes.
    """
    needed = "test/<class>/, or <class>/," if test_only else "train/<class>/ and test/<class>/"
    layout = f"it must contain {needed} with images"
    if not os.path.isdir(root):
        raise UsageError(f"data.root={root} is not an existing folder; {layout}")
    folders = [name for name in ("train", *TEST_FOLDERS) if os.path.isdir(os.path.join(root, name))]
    if test_only and folders != ["train"]:
        folders = ["train", *([name for name in folders if name != "train"] or ["."])]
    if "train" not in folders or len(folders) == 1:
        missing = "test (nor val, nor valid)" if folders == ["train"] else "train"
        raise UsageError(f"data.root={root} has no folder {missing}; {layout}")
    if folders[1:] not in (["test"], ["."]):
        print_once(f"{root}: using {folders[1]} as the test set (found {', '.join(folders[1:])})")
    digest = hashlib.blake2b(f"{VERSION} {image_size}".encode(), digest_size=16)
    try:
        listings = [_list_images(os.path.join(root, name), digest) for name in folders[test_only:2]]
    except OSError as error:
        raise UsageError(f"data.root: {error.filename} cannot be read: {error.strerror}") from error
    test = listings[-1]
    train = replace(test, files=[], labels=test.labels[:0]) if test_only else listings[0]
    if different := sorted(set(train.classes) ^ set(test.classes)):
        names = ", ".join(different[:5]) + (f" and {len(different) - 5} more" if len(different) > 5 else "")
        raise UsageError(
            f"data.root={root}: train and {folders[1]} must have the same classes, but only one has {names}; add "
            "images of these classes to the other, or remove them"
        )
    if invalid := [name for name in train.classes if re.search("[\ud800-\udfff]", name)]:
        raise UsageError(f"data.root={root}: the class name {invalid[0]!r} is not UTF-8; rename the folder")
    if len(train.classes) < (1 if test_only else 2):
        least = "a class folder" if test_only else "at least two class folders"
        raise UsageError(f"data.root={root}: {folders[test_only]} needs {least}, got {test.classes}")
    return train, test, digest.hexdigest()


def _list_images(folder: str, digest: Any) -> Listing:
    """List the images of a split, and add their names, sizes and modification times to the digest."""
    names: dict[str, list[str]] = {}  # the folders of each class; macOS decomposes letters with accents, others do not
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        above = Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))  # by a link
        if name[0] != "." and os.path.isdir(path) and not above:
            names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    classes = sorted(names)
    files: list[str] = []
    counts = []
    ignored = []
    for name in classes:
        found = [
            f"{part}/{file}"
            for part in names[name]
            for file in sorted(walk(os.path.join(folder, part)), key=lambda file: file.split("/"))
        ]
        images = [file for file in found if file.lower().endswith(SUFFIXES)]
        if not images:
            path = os.path.join(folder, name)
            others = f"convert its files such as {found[0].rpartition('/')[2]}" if found else "add some"
            raise UsageError(
                f"data.root: {path} contains no images ({', '.join(SUFFIXES)}); {others}, or remove the class {name} "
                "from the training and the test images"
            )
        for file in images:
            status = os.stat(os.path.join(folder, file))
            digest.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        files += images
        counts.append(len(images))
        ignored += sorted(set(found) - set(images))
    print_ignored(folder, ignored, len(ignored))
    digest.update(b"\n")  # separates the splits
    return Listing(folder, tuple(classes), files, np.repeat(np.arange(len(classes)), counts))


def _open(cache: str | Path, fingerprint: str) -> DataSplits | None:
    """Memory-map a cache; return None if it is missing, outdated or corrupt."""
    cache = Path(cache)
    try:
        meta = json.loads((cache / "meta.json").read_text(encoding="utf-8"))
        if meta["fingerprint"] != fingerprint:
            return None
        train, test = (
            Split(
                np.load(cache / f"{name}_images.npy", mmap_mode="r"),
                np.load(cache / f"{name}_labels.npy"),
                cache / f"{name}_files.txt",
            )
            for name in ("train", "test")
        )
        return DataSplits(train, test, tuple(meta["classes"]), tuple(meta["mean"]), tuple(meta["std"]))
    except (OSError, EOFError, ValueError, KeyError):
        return None


def _build(
    cache: Path, splits: dict[str, Listing], fingerprint: str, image_size: int, num_workers: int, timeout_s: int
) -> None:
    """Decode both splits into a temporary folder, then move it to `cache`."""
    building = cache.with_name(f"{cache.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # from a killed process
    building.mkdir()
    try:
        unreadable = []
        for name, listing in splits.items():
            file = str(building / f"{name}_images.npy")
            unreadable += decode_all(listing, file, image_size, num_workers, timeout_s)
            np.save(building / f"{name}_labels.npy", listing.labels)
            with open(building / f"{name}_files.txt", "w", encoding="utf-8", errors="surrogateescape") as names:
                names.write("\0".join(listing.files))
        listed = cache.with_name(f"{cache.name}.unreadable.txt")
        listed.unlink(missing_ok=True)
        if unreadable:
            shown = "\n  ".join(unreadable[:5])
            if len(unreadable) > 5:
                atomic_write_text(listed, "".join(f"{line}\n" for line in unreadable))
                shown += f"\n  ... all are listed in {listed}"
            raise UsageError(f"data.root: {counted(len(unreadable), 'unreadable image')}; remove or repair:\n  {shown}")
        measured = "train" if splits["train"].files else "test"
        mean, std = channel_statistics(np.load(building / f"{measured}_images.npy", mmap_mode="r"))
        meta = {"fingerprint": fingerprint, "classes": splits["train"].classes, "mean": mean, "std": std}
        (building / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        for path in building.iterdir():
            with open(path, "rb+") as written:
                os.fsync(written.fileno())
        fsync_dir(building)
        shutil.rmtree(cache, ignore_errors=True)
        building.rename(cache)
        fsync_dir(cache.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
