"""All parts of the evidence together."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cifar_lit.analysis import evidence
from cifar_lit.analysis.bootstrap import Estimate
from cifar_lit.analysis.evidence import PARTS, Evidence, Plan, collect
from cifar_lit.analysis.localization import METHODS, Localization
from cifar_lit.report.results import RunResults

LOCALIZATION = Localization(
    2,
    8,
    {name: {"layer1": Estimate(0.3, 0.2, 0.4, 2), "layer2": Estimate(0.5, 0.4, 0.6, 2)} for name in METHODS},
    {"layer1": 16, "layer2": 8, "layer3": 4, "layer4": 2},
)


def test_parts_are_computed_saved_and_read(
    make_results: Callable[..., RunResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = make_results()
    monkeypatch.setattr(evidence, "draw_mosaics", lambda *_: np.array([[0, 1, 2, 3]]))
    monkeypatch.setattr(evidence, "localize", lambda *_: LOCALIZATION)
    found = collect(results.network, results.images, results.test, Plan(2, 3, 2, 4))
    assert found.missing == {} and all(getattr(found, name) for name in PARTS)
    assert found.layer == "layer2"  # the best above 5 px explains in all other parts
    assert found.removal and found.sanity and found.interventions
    assert found.removal.layer == found.sanity.layer == found.interventions.layer == "layer2"
    assert (found.removal.num_images, found.sanity.num_images) == (3, 2)
    assert found.interventions.num_images + found.interventions.num_flat == 4
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert Evidence.from_json(text) == found


def test_a_failure_loses_one_part(make_results: Callable[..., RunResults], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("singular\nmatrix")

    results = make_results()
    monkeypatch.setattr(evidence, "compare_with_null_maps", broken)
    found = collect(results.network, results.images, results.test, Plan(2, 3, 2, 0, "GradCAM"))
    assert found.sanity and list(found.errors) == ["removal"]
    assert found.missing["removal"] == "singular matrix"
    assert "4 classes" in found.missing["localization"]  # there are three
    assert found.missing["interventions"] == "turned off (evidence.num_replaced is 0)"
    assert found.layer == "layer1" and Evidence.from_json(json.dumps(found.to_dict())) == found
    nothing = collect(results.network, results.images, results.test, Plan())
    assert nothing.layer is None and set(nothing.missing) == set(PARTS) and nothing.errors == {}


def test_cams_without_contrast_are_no_evidence(make_results: Callable[..., RunResults]) -> None:
    results = make_results()
    results.network.backbone.fc.weight.zero_()
    found = collect(results.network, results.images, results.test, Plan(0, 3, 0, 3))
    assert found.missing["removal"] == "no image has a layer1 CAM with contrast"
    assert found.missing["interventions"].startswith("no misclassified image has layer1 CAMs")
    assert found.errors == {}


def test_smaller_plan() -> None:
    assert Plan(200, 3, 0, 100, "LayerCAM").at_most(4) == Plan(4, 3, 0, 4, "LayerCAM")
