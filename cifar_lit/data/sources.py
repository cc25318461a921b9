"""The data sources: CIFAR-10, CIFAR-100, image folders and scikit-learn's digits.

To add a source, write a function that maps SourceOptions to DataSplits and list it in SOURCES.
"""

import os
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cifar_lit.data.dataset import DataSplits, Split, channel_statistics
from cifar_lit.data.image_folder import TEST_FOLDERS, load_folder
from cifar_lit.data.sampling import stratified_split
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.files import file_lock


@dataclass(frozen=True)
class SourceOptions:
    """Options of the sources; each uses those that it needs.

    Args:
        root: The download folder (cifar10, cifar100), or the folder with `train` and `test` (folder).
        image_size: Height and width of the loaded images in pixels.
        mirrors: URLs of the archive, or, with a trailing `/`, of a folder that contains it; tried before the original.
        cache_dir: Folder for caches of decoded images (folder).
        num_workers: Processes that decode images (folder); 0 decodes in the calling process.
        process_timeout: How long to wait for one of them, in seconds.
        test_only: Whether the training images are not needed; a folder may then lack them.
        download: Whether to download a data set that is not there (cifar10, cifar100).
    """

    root: str
    image_size: int
    mirrors: Sequence[str] = ()
    cache_dir: str = "data/cache"
    num_workers: int = 0
    process_timeout: int = 600
    test_only: bool = False
    download: bool = True


class Source(NamedTuple):
    """A data source.

    Attributes:
        load: Returns the data set; the same one for the same options.
        uses_root: Whether it uses `SourceOptions.root`.
    """

    load: Callable[[SourceOptions], DataSplits]
    uses_root: bool = True


def load(source: str, options: SourceOptions) -> DataSplits:
    """Load the data set of a source, a key of SOURCES.

    Raises:
        UsageError: An option or a file in `options.root` is invalid.
        RunError: The download failed, or the cache cannot be written.
        OSError: The disk is full.
    """
    if source not in SOURCES:
        raise UsageError(f"data.source must be one of {', '.join(SOURCES)}, got {source}")
    return SOURCES[source].load(options)


def _folder(options: SourceOptions) -> DataSplits:
    size, workers, timeout = options.image_size, options.num_workers, options.process_timeout
    return load_folder(options.root, size, options.cache_dir, workers, timeout, options.test_only)


def _digits(options: SourceOptions) -> DataSplits:
    """Load the 1,797 digits, of which 360 are the test split; nothing is downloaded."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), from 0..16
    images = np.repeat(resize(gray, options.image_size)[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int64)
    train, test = (Split(images[i], labels[i]) for i in stratified_split(labels, size=360, seed=0))
    return DataSplits(train, test, tuple(map(str, digits.target_names)), *channel_statistics(train.images))


def _cifar(options: SourceOptions, name: str) -> DataSplits:
    """Load CIFAR-10 or CIFAR-100, downloading and unpacking it first if necessary."""
    from torchvision import datasets  # here: importing it takes seconds
    from torchvision.datasets.utils import check_integrity

    from cifar_lit.data.download import download

    if not options.root:
        raise UsageError(f"data.root is empty: set --data.root to the folder for {name}")
    root = os.path.expanduser(options.root)
    dataset = getattr(datasets, name)
    archive = os.path.join(root, dataset.filename)

    def read() -> DataSplits:
        sets = [dataset(root, train=train) for train in (True, False)]  # checks the MD5 of every file
        train, test = (Split(resize(s.data, options.image_size), np.asarray(s.targets, dtype=np.int64)) for s in sets)
        return DataSplits(train, test, tuple(sets[0].classes), *channel_statistics(train.images))

    with suppress(RuntimeError):  # missing or corrupt
        return read()
    if os.path.isfile(os.path.join(root, dataset.meta["filename"])):  # or it would be downloaded again, into itself
        parent = os.path.dirname(os.path.abspath(root))
        raise UsageError(
            f"data.root={options.root} contains the files of {dataset.base_folder}: use the folder that contains "
            f"{dataset.base_folder}, such as --data.root {parent}"
        )
    if not options.download and not check_integrity(archive, dataset.tgz_md5):
        raise UsageError(f"data.root={root}: {name} is not there; download it with python -m cifar_lit.evaluate RUN")
    if not os.path.exists(archive) and not os.path.exists(os.path.join(root, dataset.base_folder)):
        folders = [folder for folder in ("train", *TEST_FOLDERS) if os.path.isdir(os.path.join(root, folder))]
        if "train" in folders and len(folders) > 1:
            raise UsageError(
                f"data.root={root} contains {' and '.join(folders[:2])} but not {dataset.filename}: use these images "
                f"with --data.source folder, or download {name} into another folder"
            )
    try:
        os.makedirs(root, exist_ok=True)
        with file_lock(os.path.join(root, f"{dataset.base_folder}.lock")):
            with suppress(RuntimeError):  # another process may have downloaded it meanwhile
                return read()
            mirrors = [url + dataset.filename if url.endswith("/") else url for url in options.mirrors]
            advice = (
                f"Use a mirror (--data.mirrors='[https://URL]'), or copy a file with MD5 {dataset.tgz_md5} to "
                f"{archive}, or use your own images (--data.source folder) or built-in ones (--config demo)"
            )
            download([*mirrors, dataset.url], archive, partial(check_integrity, md5=dataset.tgz_md5), advice)
            _unpack(archive, root)
            return read()
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(
            f"data.root={root}: {error.strerror}; use a writable folder, or one that contains {dataset.base_folder}"
        ) from error


def _unpack(archive: str, folder: str) -> None:
    """Unpack an archive, refusing members outside of the folder."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise RunError(f"{archive} cannot be unpacked: {error}") from None


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize uint8 images `(N, H, W)` or `(N, H, W, 3)` to `size` x `size` pixels."""
    if images.shape[1:3] == (size, size):
        return np.ascontiguousarray(images)  # torchvision returns a transposed view, which is slow to index
    resized = np.empty((len(images), size, size, *images.shape[3:]), np.uint8)
    interpolation = cv2.INTER_AREA if size < images.shape[1] else cv2.INTER_CUBIC
    for index, image in enumerate(images):
        resized[index] = cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=interpolation)
    return resized


SOURCES = {
    "cifar10": Source(partial(_cifar, name="CIFAR10")),
    "cifar100": Source(partial(_cifar, name="CIFAR100")),
    "folder": Source(_folder),
    "digits": Source(_digits, uses_root=False),
}
