"""What says that the CAMs can be trusted: localization, removal, randomization and interventions in one value."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar_lit.analysis.bootstrap import as_estimate
from cifar_lit.analysis.gradcam import default_layer
from cifar_lit.analysis.interventions import Interventions, intervene
from cifar_lit.analysis.localization import CELLS, MIN_CONFIDENCE, Localization, draw_mosaics, localize
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.analysis.removal import CAM, Removal, compare_with_null_maps
from cifar_lit.analysis.sanity import Sanity, check_sanity
from cifar_lit.models.resnet import Layer, ResNet18

PARTS = {"localization": Localization, "removal": Removal, "sanity": Sanity, "interventions": Interventions}
NUMBERS = dict(zip(PARTS, ("num_mosaics", "num_removed", "num_randomized", "num_replaced"), strict=True))
Images = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Plan:
    """How much evidence to compute, at most; 0 turns a part off.

    Attributes:
        num_mosaics: Mosaics of the pointing game.
        num_removed: Random test images whose marked pixels are removed.
        num_randomized: Random test images for the sanity checks.
        num_replaced: Random misclassified images of which parts are replaced.
        method: How CAMs are computed, as in `activation_maps`; the pointing game has methods of its own.
    """

    num_mosaics: int = 0
    num_removed: int = 0
    num_randomized: int = 0
    num_replaced: int = 0
    method: str = "GradCAM"

    def at_most(self, most: int) -> "Plan":
        """Return a plan with smaller numbers."""
        return replace(self, **{name: min(most, getattr(self, name)) for name in NUMBERS.values()})


@dataclass(frozen=True)
class Evidence:
    """The evidence that was computed.

    Attributes:
        method: How the CAMs of all parts but the localization were computed.
        layer: The layer that they explain: the one that localizes best, else the deepest with CAMs above 5 px; None
            if nothing was computed.
        localization: The pointing game.
        removal: ROAD and null maps.
        sanity: Randomized networks.
        interventions: Replaced parts of misclassified images.
        weights: Fingerprint of the network; empty if unknown.
        missing: Why a part is None.
        errors: The exceptions among these reasons; not saved.
    """

    method: str = "GradCAM"
    layer: Layer | None = None
    localization: Localization | None = None
    removal: Removal | None = None
    sanity: Sanity | None = None
    interventions: Interventions | None = None
    weights: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "errors"}
        return {name: asdict(value) if name in PARTS and value else value for name, value in values.items()}

    @classmethod
    def from_json(cls, text: str) -> "Evidence":
        """Return what `to_dict` returned, from JSON."""
        values = json.loads(text, object_hook=as_estimate)
        return cls(**{name: PARTS[name](**one) if name in PARTS and one else one for name, one in values.items()})

    @classmethod
    def read(cls, file: Path) -> "Evidence":
        """Read a file of `to_dict`; nothing was computed if there is none."""
        return cls.from_json(file.read_text(encoding="utf-8")) if file.exists() else cls()


class Missing(Exception):
    """The images do not allow a part."""


def collect(net: ResNet18, images: Images, test: Predictions, plan: Plan) -> Evidence:
    """Compute the evidence; a part that fails is missing, with the reason.

    Args:
        net: In evaluation mode, in float32.
        images: Returns the images of rows of `test`, `(N, H, H, 3)`, uint8.
        test: Predictions for the test images.
        plan: How much of it.
    """
    if plan == Plan(method=plan.method):
        return Evidence(plan.method, missing={name: f"turned off (evidence.{NUMBERS[name]} is 0)" for name in PARTS})
    shuffled = np.random.default_rng(0).permutation(len(test))
    most_probable = test.log_probabilities.argsort(axis=1)[:, ::-1][:, :2]  # the prediction, and the second
    layer = default_layer(net, images(shuffled[:1]).shape[1])

    def localization() -> Localization:
        rows = draw_mosaics(test, plan.num_mosaics)
        if not len(rows):
            raise Missing(
                f"a mosaic needs correctly classified images of {CELLS} classes with a probability of at least "
                f"{100 * MIN_CONFIDENCE:.0f}%, and there are fewer"
            )
        cells = images(rows.ravel())
        return localize(net, cells.reshape(*rows.shape, *cells.shape[1:]), test.labels[rows])

    def removal() -> Removal:
        rows = shuffled[: plan.num_removed]
        if len(rows) < 2:
            raise Missing("two or more images are needed, because one null map is another image's")
        found = compare_with_null_maps(net, images(rows), most_probable[rows], layer, plan.method)
        if not found.scores[CAM]:
            raise Missing(f"no image has a {layer} CAM with contrast")
        return found

    def sanity() -> Sanity:
        rows = shuffled[: plan.num_randomized]
        return check_sanity(net, images(rows), test.predicted[rows], layer, plan.method)

    def interventions() -> Interventions:
        rows = np.random.default_rng(0).permutation(test.errors)[: plan.num_replaced]
        if not len(rows):
            raise Missing("no test image is misclassified")
        found = intervene(net, images(rows), test.target_classes(rows), layer, plan.method)
        if not found.num_images:
            raise Missing(f"no misclassified image has {layer} CAMs with contrast for both classes")
        return found

    parts: dict[str, Any] = {}
    missing: dict[str, str] = {}
    errors: dict[str, Exception] = {}
    for name, part in zip(PARTS, (localization, removal, sanity, interventions), strict=True):
        try:
            if not getattr(plan, NUMBERS[name]):
                raise Missing(f"turned off (evidence.{NUMBERS[name]} is 0)")
            parts[name] = part()
        except Missing as reason:
            missing[name] = str(reason)
        except Exception as error:
            missing[name] = " ".join(str(error).split()) or type(error).__name__
            errors[name] = error
        if name == "localization" and name in parts:
            layer = parts[name].best_layer(plan.method) or layer
    return Evidence(plan.method, layer, **parts, missing=missing, errors=errors)
