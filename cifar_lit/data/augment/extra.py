"""Any transforms of albumentations, from a recipe."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import asks PyPI for the latest version

import albumentations as A

from cifar_lit.utils.errors import UsageError


def build(transforms: Sequence[dict[str, Any]], image_size: int) -> list[A.BasicTransform]:
    """Return the transforms that are described by class and arguments.

    Args:
        transforms: For each, `class_path` (a name in albumentations, with or without the package) and `init_args`.
        image_size: Height and width in pixels of the images.

    Raises:
        UsageError: There is no such class or argument, or it does not return images of the same shape and dtype.
    """
    return [_build(transform, image_size) for transform in transforms]


def _build(transform: dict[str, Any], image_size: int) -> A.BasicTransform:
    unknown = set(transform) - {"class_path", "init_args"}
    name = str(transform.get("class_path", "")).removeprefix("albumentations.")
    option = f"data.extra_transforms: {name or transform}"
    if not name or unknown:
        raise UsageError(
            f"{option}: each must be {{class_path: NAME, init_args: {{...}}}}, such as ColorJitter with p: 0.5"
        )
    kind = getattr(A, name, None)
    if not isinstance(kind, type) or not issubclass(kind, A.BasicTransform):
        raise UsageError(f"{option}: albumentations has no such transform")
    arguments = dict(transform.get("init_args") or {})
    try:
        built = kind(**arguments)
        pixels = np.random.default_rng(0).integers(0, 256, (image_size, image_size, 3), np.uint8)
        # strict: unknown arguments are errors
        result = A.Compose([kind(**arguments | {"p": 1})], strict=True, seed=0)(image=pixels)["image"]
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{option}: it cannot be used with these init_args ({reason})") from None
    if not isinstance(result, np.ndarray) or result.shape != pixels.shape or result.dtype != np.uint8:
        found = f"{result.dtype} {tuple(result.shape)}" if hasattr(result, "dtype") else type(result).__name__
        raise UsageError(f"{option}: it must return uint8 {pixels.shape}, like its input, but returns {found}")
    return built
