"""Images in folders, one folder for each class, decoded once into a cache that is memory-mapped.

The cache is rebuilt when a image comes, goes or changes (by name, size or time).
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from cifar_lit.data.dataset import DataSplits, Split, channel_statistics
from cifar_lit.data.decode import Listing, decode_all
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.files import fsync_dir

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TEST_FOLDERS = ("test", "val", "valid")  # the first one that is there is used
VERSION = 2  # of the cache: raise it when images are decoded or kept in another way
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


def load_folder(root: str, image_size: int, cache_dir: str, num_workers: int) -> DataSplits:
    """Load `root/train/<class>/*` and `root/test/<class>/*` (or `val`, or `valid`) through the cache.

    Args:
        root: The folder with the splits.
        image_size: Height and width of the images, in pixels; others are resized and cropped to it.
        cache_dir: The folder for caches; this one is `<name of root>-<hash>` in it.
        num_workers: Processes that decode; with 0, this one does it.

    Returns:
        Read-only memory maps of the decoded images.

    Raises:
        UsageError: The folder is not laid out like this, or images cannot be read.
        RunError: The cache cannot be written.
        OSError: The disk is full.
    """
    if not root:
        raise UsageError("data.root is not given: name the folder with the images with --data.root")
    root = os.path.realpath(os.path.expanduser(root))
    train, test, fingerprint = scan(root, image_size)
    digest = hashlib.blake2b(os.fsencode(f"{root}\0{image_size}"), digest_size=4).hexdigest()
    cache = os.path.join(cache_dir, f"{os.path.basename(root)}-{digest}")
    splits = _open(cache, fingerprint)  # without the lock, so that a read-only cache will do
    if splits:
        return splits
    try:
        os.makedirs(cache_dir, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            splits = _open(cache, fingerprint)  # another process may have been faster
            if not splits:
                _build(cache, {"train": train, "test": test}, fingerprint, image_size, num_workers)
                splits = _open(cache, fingerprint)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise RunError(f"data.cache_dir={cache_dir}: {error.strerror}; name a folder that can be written") from error
    if not splits:
        raise RunError(f"data.cache_dir={cache_dir}: {cache} was removed or changed meanwhile; start again")
    return splits


def scan(root: str, image_size: int) -> tuple[Listing, Listing, str]:
    """List the images of both splits, and fingerprint them together with how they will be decoded.

    Raises:
        UsageError: A split is missing or empty, or the splits have different classes.
    """
    layout = "it must hold train/<class>/ and test/<class>/ with images"
    if not os.path.isdir(root):
        problem = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UsageError(f"data.root={root} {problem}; {layout}")
    tests = [name for name in TEST_FOLDERS if os.path.isdir(os.path.join(root, name))]
    if not os.path.isdir(os.path.join(root, "train")):
        raise UsageError(f"data.root={root} has no folder train; {layout}")
    if not tests:
        raise UsageError(f"data.root={root} has no folder test (nor val, nor valid); {layout}")
    if tests != ["test"]:
        print(f"{root}: testing on {tests[0]}, of {', '.join(tests)}", file=sys.stderr)
    digest = hashlib.blake2b(f"{VERSION} {image_size}".encode(), digest_size=16)
    try:
        train, test = (_listing(os.path.join(root, name), digest) for name in ("train", tests[0]))
    except PermissionError as error:
        raise UsageError(f"data.root: {error.filename} may not be read; change its permissions") from error
    if different := sorted(set(train.classes) ^ set(test.classes)):
        raise UsageError(
            f"data.root={root}: train and {tests[0]} must have the same classes; only one of them has "
            f"{', '.join(different[:5])}" + (f" and {len(different) - 5} more" if len(different) > 5 else "")
        )
    if spoilt := [name for name in train.classes if re.search("[\ud800-\udfff]", name)]:
        raise UsageError(f"data.root={root}: the name of the class folder {spoilt[0]!r} is not UTF-8; rename it")
    if len(train.classes) < 2:
        raise UsageError(f"data.root={root}: train needs at least two class folders, and has {train.classes}")
    return train, test, digest.hexdigest()


def _listing(folder: str, digest: Any) -> Listing:
    """List one split, and add the name, size and time of each of its images to the digest."""
    with os.scandir(folder) as entries:
        # os.path.isdir, for which a link that leads to itself is no folder; the entry's own is_dir() raises
        classes = sorted(e.name for e in entries if os.path.isdir(e.path) and not e.name.startswith("."))
    files: list[str] = []
    others: list[str] = []
    counts = []
    for name in classes:
        before = len(files)
        lines: list[str] = []
        _walk(os.path.join(folder, name), f"{name}/", files, lines, others)
        digest.update(os.fsencode("".join(lines)))
        counts.append(len(files) - before)
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise UsageError(
            f"data.root: {os.path.join(folder, empty[0])} holds no images ({', '.join(SUFFIXES)}); "
            "add some or remove the folder"
        )
    if others:
        print(f"{folder}: {len(others)} files left out, no PNG, JPEG or WebP ({others[0]}, ...)", file=sys.stderr)
    digest.update(b"\n")  # where a split ends
    return Listing(folder, tuple(classes), files, np.repeat(np.arange(len(classes)), counts))


def _walk(folder: str, prefix: str, files: list[str], lines: list[str], others: list[str]) -> None:
    """Add the images in a folder and its sub-folders, sorted, and a line with name, size and time of each.

    Only strings are kept: tens of thousands of other objects would set off Python's garbage collector.
    """
    here: int | str = folder
    if os.scandir in os.supports_fd:
        here = os.open(folder, os.O_RDONLY)  # looking names up from an open folder is faster than by whole paths
    try:
        with os.scandir(here) as found:
            entries = sorted(found, key=attrgetter("name"))
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if entry.is_dir(follow_symlinks=False):  # a link may lead back here
                _walk(os.path.join(folder, name), f"{prefix}{name}/", files, lines, others)
            elif name.lower().endswith(SUFFIXES):
                try:
                    status = entry.stat()
                except OSError:  # a link to nowhere: decoding will name it
                    status = entry.stat(follow_symlinks=False)
                files.append(prefix + name)
                lines.append(f"{prefix}{name}\0{status.st_size}\0{status.st_mtime_ns}\n")
            else:
                others.append(prefix + name)
    finally:
        if isinstance(here, int):
            os.close(here)


def _open(cache: str, fingerprint: str) -> DataSplits | None:
    """Memory-map a cache, or return None if there is none with this fingerprint."""
    try:
        with open(os.path.join(cache, "meta.json"), encoding="utf-8") as file:
            meta = json.load(file)
        if meta["fingerprint"] != fingerprint:
            return None
        train, test = (
            Split(
                np.load(os.path.join(cache, f"{name}_images.npy"), mmap_mode="r"),
                np.load(os.path.join(cache, f"{name}_labels.npy")),
                Path(cache, f"{name}_files.txt"),
            )
            for name in ("train", "test")
        )
        return DataSplits(train, test, tuple(meta["classes"]), tuple(meta["mean"]), tuple(meta["std"]))
    except (OSError, EOFError, ValueError, KeyError):  # not there, or spoilt
        return None


def _build(cache: str, splits: dict[str, Listing], fingerprint: str, image_size: int, num_workers: int) -> None:
    """Decode both splits beside the cache, then put them in its place."""
    fresh, old = f"{cache}.building", f"{cache}.old"
    shutil.rmtree(fresh, ignore_errors=True)  # a killed run may have left it
    os.makedirs(fresh)
    try:
        unreadable = []
        for name, listing in splits.items():
            path = os.path.join(fresh, name)
            unreadable += decode_all(listing, f"{path}_images.npy", image_size, num_workers)
            np.save(f"{path}_labels.npy", listing.labels)
            with open(f"{path}_files.txt", "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write("\0".join(listing.files))  # the only character that no name has
        if unreadable:
            raise UsageError(
                f"data.root: {len(unreadable)} unreadable images; remove or repair them:\n  "
                + "\n  ".join(unreadable[:5] + ["..."] * (len(unreadable) > 5))
            )
        mean, std = channel_statistics(np.load(os.path.join(fresh, "train_images.npy"), mmap_mode="r"))
        meta = {
            "fingerprint": fingerprint,
            "image_size": image_size,
            "folders": {name: listing.folder for name, listing in splits.items()},
            "images": {name: len(listing.files) for name, listing in splits.items()},
            "classes": splits["train"].classes,
            "mean": mean,
            "std": std,
        }
        with open(os.path.join(fresh, "meta.json"), "w", encoding="utf-8") as file:
            json.dump(meta, file, indent=1)
        for name in os.listdir(fresh):  # all of it on the disk before it takes the cache's place
            with open(os.path.join(fresh, name), "rb+") as file:
                os.fsync(file.fileno())
        fsync_dir(fresh)
        shutil.rmtree(old, ignore_errors=True)
        if os.path.exists(cache):
            os.rename(cache, old)
        os.rename(fresh, cache)
        fsync_dir(os.path.dirname(cache) or ".")
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
