"""A folder of JPEG files: the first run, which decodes them into a cache, and later ones."""

import shutil
import time

from harness import Row, Settings, Times, alternate, faster
from PIL import Image
from torchvision.datasets import ImageFolder

from cifar_lit.data.image_folder import load_folder
from cifar_lit.utils.hardware import available_cores


def measure(settings: Settings) -> list[Row]:
    """Read all images, training and test, in each way."""
    cache = settings.scratch.parent / "cache"  # other parts use it too
    cores = available_cores()
    count = len(list(settings.root.glob("*/*/*")))

    def usual() -> None:
        for split in ("train", "test"):
            for image, _ in ImageFolder(str(settings.root / split)):
                assert isinstance(image, Image.Image)

    def load() -> float:
        began = time.perf_counter()
        load_folder(str(settings.root), 32, str(cache), cores)
        return time.perf_counter() - began

    def first() -> float:
        shutil.rmtree(cache, ignore_errors=True)
        return load()

    times = alternate(0 if settings.quick else 2, usual=usual, first=first, later=load)
    later = Times([max(times["later"].seconds)])
    what = f"{count:,} JPEG files"
    return [
        faster("folder", f"{what}, first run, {cores} cores", times["first"], times["usual"], count, "ImageFolder", 2),
        Row(
            "folder",
            f"{what}, later runs",
            f"{times['later'].median:.3g} s ({min(times['later'].seconds):.3g} to {later.median:.3g})",
            f"ImageFolder: {times['usual'].median:.3g} s",
            f"{times['later'].median:.3g} s",
            "must 0.5 s",
            times["later"].median < 0.5,
            {"ours": times["later"].seconds, "peer": times["usual"].seconds},
        ),
    ]
