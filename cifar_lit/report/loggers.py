"""How each kind of logger takes an image."""

import inspect
from importlib import import_module
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import Logger

from cifar_lit.report.drawing import Pixels


def log_image(logger: Logger, name: str, pixels: Pixels, step: int) -> None:
    """Log an image; a logger that takes no images gets nothing.

    Args:
        logger: One of Lightning's, of either package, or any other with a method `log_image(key, images, step)` like
            that of WandbLogger.
        name: May contain slashes.
        pixels: Shape `(H, W, 3)`, uint8.
        step: The global step.
    """
    to: Any = logger  # what an experiment is depends on packages that may be missing
    kinds = {kind.__name__ for kind in type(logger).__mro__}  # pytorch_lightning and lightning.pytorch have their own
    image = Image.fromarray(pixels)  # Comet would stretch the values of an array to 0..255
    if "TensorBoardLogger" in kinds:
        to.experiment.add_image(name, pixels, step, dataformats="HWC")
    elif "MLFlowLogger" in kinds:
        to.experiment.log_image(to.run_id, image, key=name, step=step)
    elif "CometLogger" in kinds:
        to.experiment.log_image(image, name=name, step=step)
    elif "LitLogger" in kinds:
        to.experiment[name].append(import_module("litlogger").Image(image), step=step)
    elif _takes_images(logger):
        to.log_image(key=name, images=[image], step=step)


def _takes_images(logger: Any) -> bool:
    """Return whether `log_image` exists and can be called like that of WandbLogger."""
    method: Any = getattr(logger, "log_image", None)
    try:
        inspect.signature(method).bind(key="", images=[], step=0)
    except (TypeError, ValueError):  # none, other arguments, or no signature
        return False
    return True
