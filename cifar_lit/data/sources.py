"""Where the images come from: CIFAR-10, CIFAR-100, a folder, or the small digits of scikit-learn."""

import os
import tarfile
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cifar_lit.data.dataset import DataSplits, Split, channel_statistics
from cifar_lit.data.download import fetch
from cifar_lit.data.image_folder import TEST_FOLDERS, load_folder
from cifar_lit.data.sampling import stratified_split
from cifar_lit.utils.errors import RunError, UsageError

Source = Literal["cifar10", "cifar100", "folder", "digits"]


def load(
    source: Source,
    root: str,
    image_size: int,
    mirrors: Sequence[str] = (),
    cache_dir: str = "data/cache",
    num_workers: int = 0,
) -> DataSplits:
    """Load a data set, all its images at one size.

    Args:
        source: Which one.
        root: For `cifar10` and `cifar100` the folder of the archive, which is downloaded if it is not there;
            for `folder` the folder with `train` and `test`; not used for `digits`.
        image_size: Height and width of the images, in pixels.
        mirrors: Addresses to try before the original one for the archive; one that ends in `/` is
            a folder which holds it under its usual name.
        cache_dir: Where `folder` keeps the decoded images.
        num_workers: Processes that decode the images of `folder`; with 0, this one does it.

    Raises:
        UsageError: An option, or what lies at `root`, cannot be used.
        RunError: The archive could not be downloaded, or the cache not be written.
        OSError: The disk is full.
    """
    if image_size < 1:
        raise UsageError(f"data.image_size={image_size}: give the side of the images in pixels, such as 32")
    if source == "folder":
        return load_folder(root, image_size, cache_dir, num_workers)
    if source == "digits":
        return _digits(image_size)
    if source in ("cifar10", "cifar100"):
        return _cifar(source, root, image_size, mirrors)
    raise UsageError(f"data.source={source!r}: choose cifar10, cifar100, folder or digits")


def _cifar(source: Source, root: str, image_size: int, mirrors: Sequence[str]) -> DataSplits:
    """Load CIFAR-10 or CIFAR-100, after downloading and unpacking it where it is not there yet."""
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if source == "cifar10" else CIFAR100
    root = os.path.expanduser(root or "")
    if not root:
        raise UsageError(f"data.root is not given: name the folder for {kind.filename} with --data.root")

    def read() -> tuple[Any, Any]:
        return kind(root, train=True), kind(root, train=False)  # raises RuntimeError unless all is intact

    try:
        train, test = read()
    except RuntimeError:
        archive = os.path.join(root, kind.filename)
        begun = os.path.exists(archive) or os.path.exists(os.path.join(root, kind.base_folder))
        splits = [name for name in ("train", *TEST_FOLDERS) if os.path.isdir(os.path.join(root, name))]
        if "train" in splits[:-1] and not begun:
            raise UsageError(
                f"data.root={root} holds folders {splits[0]} and {splits[1]}, but no {kind.filename}: add "
                f"--data.source folder to take their images, or name another folder, to download {source} into"
            ) from None
        try:
            os.makedirs(root, exist_ok=True)
            with FileLock(os.path.join(root, f"{kind.base_folder}.lock")):
                try:
                    train, test = read()  # another process was faster
                except RuntimeError:
                    addresses = [m + kind.filename if m.endswith("/") else m for m in mirrors]
                    fetch([*addresses, kind.url], archive, kind.tgz_md5)
                    _unpack(archive, root)
                    train, test = read()
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UsageError(
                f"data.root={root}: {error.strerror}; name a folder that can be written, or one that holds "
                f"the unpacked {kind.base_folder}"
            ) from error

    return _images(
        Split(_resized(train.data, image_size), np.asarray(train.targets, dtype=np.int64)),
        Split(_resized(test.data, image_size), np.asarray(test.targets, dtype=np.int64)),
        train.classes,
    )


def _unpack(archive: str, folder: str) -> None:
    """Unpack an archive, but nothing that would lie outside of the folder."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise RunError(f"{archive} cannot be unpacked ({error}); remove it and start again") from None


def _digits(image_size: int) -> DataSplits:
    """Load the 1,797 digits, of which 360 are the test split; nothing is downloaded."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), from 0..16
    images = np.repeat(_resized(grey, image_size)[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int64)
    rest, held_out = stratified_split(labels, size=360, seed=0)
    train, test = (Split(images[indices], labels[indices]) for indices in (rest, held_out))
    return _images(train, test, [str(name) for name in digits.target_names])


def _images(train: Split, test: Split, classes: Sequence[str]) -> DataSplits:
    """Join two splits, with the statistics of the first."""
    mean, std = channel_statistics(train.images)
    return DataSplits(train, test, tuple(classes), mean, std)


def _resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return `(N, H, W)` or `(N, H, W, 3)` images, uint8, at `size` x `size` pixels."""
    if images.shape[1:3] == (size, size):
        return np.ascontiguousarray(images)  # CIFAR arrives as a transposed view, slow to read in batches
    resized = np.empty((len(images), size, size, *images.shape[3:]), np.uint8)
    smooth = cv2.INTER_AREA if size < images.shape[1] else cv2.INTER_CUBIC
    for index, image in enumerate(images):
        resized[index] = cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=smooth)
    return resized
