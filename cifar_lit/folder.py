"""Pictures in folders, one folder for each class, decoded once into a cache that is memory-mapped.

The cache is rebuilt when a picture comes, goes or changes (by name, size or time).
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from cifar_lit.errors import RunError, UsageError
from cifar_lit.pictures import Pictures, Split, channel_statistics

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TEST_FOLDERS = ("test", "val", "valid")  # the first one that is there is used
VERSION = 1  # of the cache: raise it when pictures are decoded or kept in another way
CHUNK = 256  # pictures decoded in one go by one process, or fewer where they are large
CHUNK_BYTES = 1 << 24
SMALL = 1 << 16  # bytes of a file
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
Images = NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The pictures of one split.

    Attributes:
        folder: Where the class folders are.
        classes: Their names, sorted.
        files: The pictures, class after class, relative to `folder`, with `/` between the parts.
        labels: Shape `(N,)`, int64, positions in `classes`.
    """

    folder: str
    classes: tuple[str, ...]
    files: list[str]
    labels: NDArray[np.int64]


def load_folder(root: str, image_size: int, cache_dir: str, num_workers: int) -> Pictures:
    """Load `root/train/<class>/*` and `root/test/<class>/*` (or `val`, or `valid`) through the cache.

    Args:
        root: The folder with the splits.
        image_size: Height and width of the pictures, in pixels; others are resized and cropped to it.
        cache_dir: The folder for caches; this one is `<name of root>-<hash>` in it.
        num_workers: Processes that decode; with 0, this one does it.

    Returns:
        Read-only memory maps of the decoded pictures.

    Raises:
        UsageError: The folder is not laid out like this, or pictures cannot be read.
        RunError: The cache cannot be written.
        OSError: The disk is full.
    """
    if not root:
        raise UsageError("data.root is not given: name the folder with the pictures with --data.root")
    root = os.path.realpath(os.path.expanduser(root))
    train, test, fingerprint = scan(root, image_size)
    digest = hashlib.blake2b(os.fsencode(f"{root}\0{image_size}"), digest_size=4).hexdigest()
    cache = os.path.join(cache_dir, f"{os.path.basename(root)}-{digest}")
    pictures = _open(cache, fingerprint)  # without the lock, so that a read-only cache will do
    if pictures:
        return pictures
    try:
        os.makedirs(cache_dir, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            pictures = _open(cache, fingerprint)  # another process may have been faster
            if not pictures:
                _build(cache, {"train": train, "test": test}, fingerprint, image_size, num_workers)
                pictures = _open(cache, fingerprint)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise RunError(f"data.cache_dir={cache_dir}: {error.strerror}; name a folder that can be written") from error
    if not pictures:
        raise RunError(f"data.cache_dir={cache_dir}: {cache} was removed or changed meanwhile; start again")
    return pictures


def scan(root: str, image_size: int) -> tuple[Listing, Listing, str]:
    """List the pictures of both splits, and fingerprint them together with how they will be decoded.

    Raises:
        UsageError: A split is missing or empty, or the splits have different classes.
    """
    layout = "it must hold train/<class>/ and test/<class>/ with pictures"
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
    if len(train.classes) < 2:
        raise UsageError(f"data.root={root}: train needs at least two class folders, and has {train.classes}")
    return train, test, digest.hexdigest()


def _listing(folder: str, digest: Any) -> Listing:
    """List one split, and add the name, size and time of each of its pictures to the digest."""
    with os.scandir(folder) as entries:
        classes = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    files: list[str] = []
    counts = []
    for name in classes:
        start = len(files)
        for file, status in _walk(os.path.join(folder, name), f"{name}/"):
            files.append(file)
            digest.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        counts.append(len(files) - start)
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise UsageError(
            f"data.root: {os.path.join(folder, empty[0])} holds no pictures ({', '.join(SUFFIXES)}); "
            "add some or remove the folder"
        )
    digest.update(b"\n")  # where a split ends
    return Listing(folder, tuple(classes), files, np.repeat(np.arange(len(classes)), counts))


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the pictures in a folder and its sub-folders, sorted, as prefixed names with their status."""
    with os.scandir(folder) as found:
        entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):  # a link may lead back here
            yield from _walk(entry.path, f"{prefix}{entry.name}/")
        elif entry.name.lower().endswith(SUFFIXES):
            try:
                yield prefix + entry.name, entry.stat()
            except OSError:  # a link to nowhere: decoding will name it
                yield prefix + entry.name, entry.stat(follow_symlinks=False)


def _open(cache: str, fingerprint: str) -> Pictures | None:
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
            )
            for name in ("train", "test")
        )
        return Pictures(train, test, tuple(meta["classes"]), tuple(meta["mean"]), tuple(meta["std"]))
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
            unreadable += _decode_all(listing, f"{path}_images.npy", image_size, num_workers)
            np.save(f"{path}_labels.npy", listing.labels)
            with open(f"{path}_files.txt", "w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(f"{name}\n" for name in listing.files)
        if unreadable:
            raise UsageError(
                f"data.root: {len(unreadable)} unreadable pictures; remove or repair them:\n  "
                + "\n  ".join(unreadable[:5] + ["..."] * (len(unreadable) > 5))
            )
        mean, std = channel_statistics(np.load(os.path.join(fresh, "train_images.npy"), mmap_mode="r"))
        meta = {
            "fingerprint": fingerprint,
            "image_size": image_size,
            "folders": {name: listing.folder for name, listing in splits.items()},
            "pictures": {name: len(listing.files) for name, listing in splits.items()},
            "classes": splits["train"].classes,
            "mean": mean,
            "std": std,
        }
        with open(os.path.join(fresh, "meta.json"), "w", encoding="utf-8") as file:
            json.dump(meta, file, indent=1)
        shutil.rmtree(old, ignore_errors=True)
        if os.path.exists(cache):
            os.rename(cache, old)
        os.rename(fresh, cache)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _decode_all(listing: Listing, path: str, image_size: int, num_workers: int) -> list[str]:
    """Write the decoded pictures to an .npy file, and return a line for each unreadable one."""
    import torch
    from torch.utils.data import DataLoader

    chunks: Any = Chunks(listing, image_size)  # a Dataset in all but name: that would import torch above
    loader: DataLoader[tuple[Images, list[str]]] = DataLoader(
        chunks,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # its own: a first run must not draw from the seeded global one
    )
    shape = (len(listing.files), image_size, image_size, 3)
    unreadable: list[str] = []
    # Written one after the other, not through a memory map: there, a full disk would kill the process.
    with (
        open(path, "wb") as file,
        tqdm(desc=f"decoding {listing.folder}", total=len(listing.files), unit=" pictures") as bar,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for images, failures in loader:
            file.write(images.tobytes())
            unreadable += failures
            bar.update(len(images))
    return unreadable


class Chunks:
    """A map-style data set whose items are the decoded pictures of several files, and the failures."""

    def __init__(self, listing: Listing, image_size: int) -> None:
        """Cut a listing into chunks."""
        self.listing = listing
        self.image_size = image_size
        self.size = max(1, min(CHUNK, CHUNK_BYTES // (3 * image_size**2)))

    def __len__(self) -> int:
        """Return the number of chunks."""
        return -(-len(self.listing.files) // self.size)

    def __getitem__(self, index: int) -> tuple[Images, list[str]]:
        """Return pictures of shape `(n, H, W, 3)`, uint8, and a line for each unreadable one."""
        files = self.listing.files[index * self.size : (index + 1) * self.size]
        images = np.zeros((len(files), self.image_size, self.image_size, 3), np.uint8)
        failures = []
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for image, file in zip(images, files, strict=True):
                path = os.path.join(self.listing.folder, file)
                try:
                    image[:] = decode(path, self.image_size)
                except UnidentifiedImageError:
                    failures.append(f"{path}: no PNG, JPEG or WebP picture")
                except Exception as error:  # broken files make Pillow raise many kinds
                    failures.append(f"{path}: {getattr(error, 'strerror', None) or error or repr(error)}")
        return images, failures


def decode(path: str, size: int) -> Images:
    """Return a picture, upright and on white, shape `(size, size, 3)`, uint8, RGB.

    It is resized so that it covers the square, and its middle is cut out.
    """
    image = _small_jpeg(path)
    if image is None:
        image = np.asarray(_any_picture(path, size))
    if image.shape != (size, size, 3):
        image = np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.LANCZOS))
    return image


def _small_jpeg(path: str) -> Images | None:
    """Read a small JPEG: OpenCV gives the same pixels as Pillow in a fifth of the time.

    None stands for any other file and for a truncated one, of which Pillow will say what is wrong with it.
    A small file cannot hold a picture of dangerous size: 8 x 8 pixels need at least a bit.
    """
    with open(path, "rb") as file:
        data = file.read(SMALL)
    if len(data) == SMALL or not data.startswith(b"\xff\xd8"):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # upright, blue first
    return None if image is None else np.asarray(image[..., ::-1], np.uint8)


def _any_picture(path: str, size: int) -> Image.Image:
    """Read a picture, upright, on white, RGB, and a JPEG at no more than is needed of its size."""
    with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
        image.draft(None, (2 * size, 2 * size))  # a half, a quarter, ... of the size, but at least this
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip
            return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return image.convert("RGB")


def _unchanged(item: T) -> T:
    """Keep a chunk as it is, where the loader would make tensors."""
    return item
