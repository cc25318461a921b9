"""Reading a folder of JPEG files: the first run, which decodes them into a cache, and later ones."""

import shutil

from harness import Row, Settings, alternate, faster
from PIL import Image
from torchvision.datasets import ImageFolder

from cifar_lit.data.image_folder import load_folder
from cifar_lit.utils.hardware import available_cores


def measure(settings: Settings) -> list[Row]:
    """Read all training and test images in each way."""
    cores = available_cores()
    count = len(list(settings.root.glob("*/*/*")))

    def image_folder() -> None:
        for split in ("train", "test"):
            for image, _ in ImageFolder(str(settings.root / split)):
                assert isinstance(image, Image.Image)

    def load() -> None:
        load_folder(str(settings.root), 32, str(settings.cache), cores)

    def load_first() -> None:
        shutil.rmtree(settings.cache, ignore_errors=True)
        load()

    times = alternate(0 if settings.quick else 2, image_folder=image_folder, first=load_first, later=load)
    later, peer = times["later"], times["image_folder"]
    what = f"{count:,} JPEG files"
    return [
        faster("folder", f"{what}, first run, {cores} cores", times["first"], peer, count, "ImageFolder", 2),
        Row(
            "folder",
            f"{what}, later runs",
            f"{later.median:.3g} s ({min(later.seconds):.3g} to {max(later.seconds):.3g})",
            f"ImageFolder: {peer.median:.3g} s",
            f"{later.median:.3g} s",
            "must 0.5 s",
            later.median < 0.5,
            {"ours": later.seconds, "peer": peer.seconds},
        ),
    ]
