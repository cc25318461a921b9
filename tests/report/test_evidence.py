"""The evidence on the page, in sentences, in files and side by side."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger

from cifar_lit.analysis.bootstrap import Estimate
from cifar_lit.analysis.evidence import Evidence, Plan, collect
from cifar_lit.analysis.interventions import AREAS, FOR_PREDICTED, KINDS, Interventions
from cifar_lit.analysis.removal import CAM, NULL_MAPS, Removal
from cifar_lit.callbacks import evidence as callback
from cifar_lit.callbacks.gradcam import GradCAMGrid
from cifar_lit.report import drawing, evidence_figures, evidence_text, html
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections import Options, evidence
from cifar_lit.report.writer import ReportWriter
from cifar_lit.utils.errors import UsageError
from tests.analysis.test_evidence import LOCALIZATION


@pytest.fixture(scope="module")
def found(make_results: Callable[..., RunResults]) -> Evidence:
    results = make_results()
    computed = collect(results.network, results.images, results.test, Plan(0, 3, 3, 10))
    return replace(computed, localization=LOCALIZATION, layer="layer2", missing={})


@pytest.fixture
def results(make_results: Callable[..., RunResults], found: Evidence) -> RunResults:
    return make_results(load_evidence=lambda _: found)


def cells(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading."""
    table = re.findall(r"<tr>(.*?)</tr>", page[page.index(heading) :].partition("</table>")[0], re.DOTALL)
    return [[unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in table]


def render(results: RunResults) -> str:
    """Return the section of the page."""
    shown = {"results": results, "classes": results.classes, "method": "Grad-CAM", "errors": None}
    return html.render("section_evidence.html", evidence=evidence.section(results, Options(5, 0, "GradCAM")), **shown)


def test_page_shows_every_number(results: RunResults, found: Evidence) -> None:
    page = render(results)
    rows = cells(page, "Do they localize a class?")
    assert rows[0] == ["layer", "CAM of an image", "Grad-CAM", "HiResCAM", "LayerCAM"]
    assert rows[2] == ["layer2", "8 px", *["50.0% (40.0% to 60.0%)"] * 3]
    assert "layer2 is the layer of the figures" in page and "2 mosaics of" in page
    removal, sanity, acts = found.removal, found.sanity, found.interventions
    assert removal and sanity and acts
    shown = {row[0]: row[1:] for row in cells(page, "Does the prediction depend on the marked pixels?")[1:]}
    assert list(shown) == [CAM, *NULL_MAPS]
    for name, difference in removal.differences.items():
        assert difference and shown[name][1].startswith(f"{difference.value:+.3f} ({difference.low:+.3f} to")
    shown = {row[0]: row[1:] for row in cells(page, "Do they depend on what was learned?")[1:]}
    rise = sanity.complexity_rise["layer1"]
    assert rise and shown["layer1"][0].startswith(f"{rise.value:+.3f} (") and shown["layer4"] == ["none with contrast"]
    assert f"{acts.num_images} misclassified images" in page and page.count("<svg") == 2


def test_missing_parts_are_named(make_results: Callable[..., RunResults], found: Evidence) -> None:
    without = replace(found, localization=None, layer="layer1", missing={"localization": "too few images"})
    page = render(make_results(load_evidence=lambda _: without))
    assert "No localization: too few images." in page and "the pointing game did not choose" in page
    one = replace(LOCALIZATION, sizes={**LOCALIZATION.sizes, "layer2": 4})  # no choice
    page = render(make_results(load_evidence=lambda _: replace(found, localization=one, layer="layer1")))
    assert "the pointing game did not choose" in page
    page = render(make_results())
    assert "--report full" in page and "Can the CAMs be trusted" not in page
    page = render(make_results(load_evidence=lambda _: Evidence(missing={"localization": "too few images"})))
    assert "No localization: too few images." in page


def estimate(value: float, half: float = 0.1, count: int = 20) -> Estimate:
    return Estimate(value, value - half, value + half, count)


@pytest.mark.parametrize(
    ("differences", "says", "follows"),
    [
        ((0.3, 0.3, 0.3, 0.3, 0.3), "higher than that of random, centered blob,", "more on the pixels"),
        ((0.3, 0.3, 0.3, 0.3, 0.0), "not distinguishable from that of the CAM, blurred", "beyond the null maps"),
        ((0.3, 0.0, 0.3, 0.3, -0.3), "lower than that of the CAM, blurred", "no evidence that the CAM marks"),
    ],
)
def test_sentence_of_removal(differences: tuple[float, ...], says: str, follows: str) -> None:
    scores: Any = dict.fromkeys((CAM, *NULL_MAPS), estimate(0.2))
    removal = Removal("layer3", 20, scores, dict(zip(NULL_MAPS, map(estimate, differences), strict=True)))
    sentence = evidence_text.removal(Evidence(removal=removal))
    assert says in sentence and follows in sentence and "It does not follow" in sentence


@pytest.mark.parametrize(
    ("score", "says"), [(0.6, "localize the four"), (0.3, "nothing shows"), (0.1, "locations of other classes")]
)
def test_sentence_of_localization(score: float, says: str) -> None:
    scores: Any = {"GradCAM": {"layer3": estimate(score)}}
    found = Evidence(layer="layer3", localization=replace(LOCALIZATION, scores=scores))
    sentence = evidence_text.localization(found)
    assert f"{100 * score:.1f}% ({100 * score - 10:.1f}% to" in sentence and says in sentence


@pytest.mark.parametrize(
    ("more", "says"), [(0.3, "more than"), (0.0, "could be due to chance"), (-0.3, "other positions matter")]
)
def test_sentence_of_interventions(more: float, says: str) -> None:
    values: Any = {kind: [estimate(0.4)] * len(AREAS) for kind in KINDS}
    differences: Any = {kind: [estimate(more)] * len(AREAS) for kind in KINDS}
    found = Evidence(interventions=Interventions("layer3", 20, 0, values, values, differences))
    sentence = evidence_text.interventions(found)
    assert says in sentence and "Blurring the 20% of an image" in sentence and "40.0% (30.0% to 50.0%)" in sentence


def test_nothing_is_concluded_from_few_images(found: Evidence) -> None:
    few: Any = dict.fromkeys((CAM, *NULL_MAPS), estimate(0.2, count=19))
    values: Any = {kind: [estimate(0.4, count=1)] * len(AREAS) for kind in KINDS}
    small = replace(
        found,  # with two mosaics
        removal=Removal("layer2", 19, few, dict.fromkeys(NULL_MAPS, estimate(0.3))),
        interventions=Interventions("layer2", 1, 0, values, values, values),
    )
    sentences = [evidence_text.SENTENCES[name](small) for name in ("localization", "removal", "interventions")]
    for count, sentence in zip((2, 19, 1), sentences, strict=True):
        assert sentence.endswith(f"; {count} are too few to conclude anything.") and "So " not in sentence


def test_files_figures_and_the_layer_of_the_cams(results: RunResults, found: Evidence, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="logs", version="")
    writer = ReportWriter(tmp_path, [logger], step=3)
    callback.Evidence().write(results, writer)
    assert writer.figures == ["localization", "interventions"] and writer.failures == {}
    logger.save()
    logged = next(csv.DictReader((tmp_path / "logs" / "metrics.csv").read_text().splitlines()))
    assert (logged["step"], float(logged["evidence/pointing_game"])) == ("3", 0.5)
    assert found.removal and (blob := found.removal.differences["centered blob"])
    assert float(logged["evidence/road_minus_centered_blob"]) == pytest.approx(blob.value)
    assert Evidence.read(tmp_path / "evidence.json") == found
    assert Evidence.read(tmp_path / "none.json") == Evidence()
    assert results.default_layer == "layer2"
    GradCAMGrid(k=1).write(results, writer)
    assert "gradcam_layer2" in writer.figures
    lines = {one.get_label() for one in evidence_figures.interventions(results).axes[0].containers}
    assert FOR_PREDICTED in lines
    for draw in evidence_figures.FIGURES.values():
        assert drawing.to_array(draw(results)).std() > 0


def test_failed_part_is_recorded(make_results: Callable[..., RunResults], found: Evidence, tmp_path: Path) -> None:
    error = RuntimeError("singular matrix")
    broken = replace(found, removal=None, missing={"removal": str(error)}, errors={"removal": error})
    writer = ReportWriter(tmp_path)
    callback.Evidence().write(make_results(load_evidence=lambda _: broken), writer)
    assert writer.failures == {"Evidence (removal)": "singular matrix"}
    assert json.loads((tmp_path / "evidence.json").read_text())["missing"] == {"removal": "singular matrix"}


def test_runs_are_compared(results: RunResults, make_results: Callable[..., RunResults]) -> None:
    rows = {row[0]: row[1:] for row in evidence_text.table([results, make_results()])}
    assert rows["layer of the CAMs"] == ["layer2", "(none)"]
    assert rows["pointing game (chance 25%)"] == ["50.0% (40.0% to 60.0%)", "(none)"]
    assert evidence_text.table([make_results(), make_results()]) == []
    drawings = evidence_figures.drawings([results, make_results(), results])
    assert [len(one) for one in drawings.values()] == [2, 2] and "<svg" in drawings["localization"][0][1]


def test_options() -> None:
    assert callback.Evidence().plan == Plan(200, 200, 100, 100)
    assert callback.Evidence(report="quick", method="LayerCAM").plan == Plan(method="LayerCAM")
    with pytest.raises(UsageError, match=r"evidence\.num_replaced must be 0 or more, got -1"):
        callback.Evidence(num_replaced=-1)
