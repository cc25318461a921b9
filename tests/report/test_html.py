"""The report's page: as a file, and in a real browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_lit.analysis import temperature
from cifar_lit.analysis.duplicates import Duplicates
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.data.dataset import DataSplits, Split
from cifar_lit.report import html as page
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections import SECTIONS, Options, Section
from cifar_lit.report.writer import ReportWriter

CLASSES = ("ape", "<b>bee</b>", "cat</script>")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# Drives the page as a user would and leaves what it saw in the document.
DRIVER = """
<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
// Chromium's virtual time runs on while a image is being decoded, which takes real time: spend some.
const until = async (ready) => {
  for (let i = 0, sum = 0; i < 1000 && !ready(); i++) {
    await wait(10);
    for (let n = 0; n < 1e5; n++) sum += Math.random();
  }
};
const canvases = () => document.querySelectorAll("#image canvas");
const tiles = () => document.querySelectorAll("#grid button");
(async () => {
  const seen = { width: innerWidth, all: tiles().length, wide: document.documentElement.scrollWidth };
  tiles()[0].append("a long name ".repeat(9));
  seen.row = [...tiles()].slice(0, 3).map((tile) => tile.getBoundingClientRect().height);
  seen.tops = [...tiles()].slice(0, 3).map((tile) => tile.querySelector("img").getBoundingClientRect().top);
  const cell = document.querySelector(".confusion button");
  cell.click();
  seen.cell = [+cell.textContent, tiles().length];
  document.querySelector(".filters button").click();
  await wait(50);
  const order = document.querySelector("select[name=order]");
  order.value = "confidence";
  order.dispatchEvent(new Event("change", { bubbles: true }));
  seen.confidence = [...tiles()].map((tile) => parseFloat(tile.textContent.split("→")[1].match(/([\\d.]+)%/)[1]));
  tiles()[0].click();
  await until(() => canvases().length);
  seen.open = document.getElementById("image").open;
  seen.cams = canvases().length;
  seen.neighbors = document.querySelectorAll("#image .neighbors img").length;
  seen.uncaptioned = [...document.querySelectorAll("table")].filter((table) => !table.caption).length;
  seen.painted = [...canvases()].map((canvas) =>
    new Set(canvas.getContext("2d").getImageData(0, 0, 150, 150).data).size);
  const before = document.getElementById("image-title").textContent;
  const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("ArrowRight");
  await until(() => canvases().length);
  seen.next = document.getElementById("image-title").textContent !== before;
  document.getElementById("next").focus();
  while (!document.getElementById("next").disabled) press("ArrowRight");
  await wait(50);  // the focus leaves the button
  press("ArrowLeft");
  seen.back = !document.getElementById("next").disabled;
  document.getElementById("close").click();
  seen.closed = !document.getElementById("image").open;
  const head = document.querySelectorAll(".sortable th button")[2];
  head.click();
  seen.sorted = [...document.querySelectorAll(".sortable tbody tr")].map((row) => +row.children[2].dataset.value);
  seen.unnamed = [...document.querySelectorAll("img:not([alt]), canvas:not([aria-label]), button:empty")].length;
  // Media cannot be emulated from the command line: apply the rules for paper to the screen.
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.offsetHeight).length;
  seen.controls = ["nav", ".filters"].map(shown);
  for (const style of document.querySelectorAll("style"))
    style.textContent = style.textContent.replace("@media print", "@media screen");
  seen.printed = ["nav", ".filters", "#more"].map(shown);
  const styles = (selector) => [...document.querySelectorAll(selector)].map((one) => getComputedStyle(one));
  seen.cut = styles(".scroll").filter((style) => style.overflowX !== "visible").length;
  seen.colors = styles(".confusion td")[0].printColorAdjust;
  seen.errors = errors;
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
})();
</script>
"""


@pytest.fixture(scope="module")
def results(make_results: Callable[..., RunResults]) -> RunResults:
    """Results with everything that the page can show."""
    plain = make_results(classes=CLASSES)
    rng = np.random.default_rng(0)
    images, labels = plain.data.splits.train.images, plain.data.splits.train.labels
    known = plain.test.take(slice(None))
    features = rng.normal(size=(30, 8)).astype(np.float32)
    found = Duplicates(*(np.array(column) for column in ([3, 8], [5, 9], [1.0, 0.75], [False, True], [True, False])))
    assert len(images) == len(labels) == 60
    return replace(
        plain,
        val=plain.test,
        temperature=temperature.fit(plain.test),
        load_duplicates=lambda: found,
        test=replace(plain.test, features=features),
        known=replace(known, indices=np.arange(30) * 2, features=features),
    )


def build(results: RunResults, folder: Path, **options: Any) -> tuple[str, ReportWriter]:
    writer = ReportWriter(folder)
    defaults = {"max_listed": None, "num_cams": 8, "method": "GradCAM", "num_neighbors": 5}
    html, readme = page.build(results, Options(**{**defaults, **options}), writer)
    writer.text("index.html", html)
    writer.text("README.md", readme)
    return html, writer


@pytest.fixture(scope="module")
def page_folder(results: RunResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page and its short version."""
    folder = tmp_path_factory.mktemp("page")
    assert build(results, folder)[1].failures == {}
    return folder


def embedded(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_page_is_self_contained_and_escapes_class_names(page_folder: Path) -> None:
    html = (page_folder / "index.html").read_text()

    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []
            self.tags: list[str] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.tags.append(tag)
            self.found += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]

    parser = Links()
    parser.feed(html)
    assert all(link.startswith(("#", "data:")) for link in parser.found) and len(parser.found) > 10
    assert "b" not in parser.tags  # the class name stayed text
    assert parser.tags.count("table") == parser.tags.count("caption") > 5
    assert embedded(html)["classes"] == list(CLASSES)


def test_page_holds_the_data_of_the_run(results: RunResults, page_folder: Path) -> None:
    data, test = embedded((page_folder / "index.html").read_text()), results.test
    assert [item["index"] for item in data["items"][: data["numErrors"]]] == test.errors.tolist()
    for item, row in zip(data["items"], test.errors, strict=False):
        assert (item["true"], item["predicted"]) == (test.labels[row], test.predicted[row])
        assert list(item["p"].values()) == pytest.approx(test.probabilities[row].tolist(), abs=1e-4)
    assert ["cams" in item for item in data["items"]] == [i < 8 for i in range(len(data["items"]))]
    cams, hires = data["items"][0]["cams"], data["items"][0]["hires"]
    assert cams["layer4"] == hires["layer4"] and cams["layer2"] != hires["layer2"]
    assert [[flat for _, _, flat in cams[layer]] for layer in ("layer1", "layer4")] == [
        ["", ""],
        ["1x1: not localized"] * 2,
    ]
    assert set(cams) == {"layer1", "layer2", "layer3", "layer4"}
    readme = (page_folder / "README.md").read_text()
    assert f"**{100 * test.accuracy:.2f}%**" in readme and "&lt;b&gt;bee" in readme


def test_page_has_the_figures_of_the_evidence(results: RunResults, page_folder: Path) -> None:
    html = (page_folder / "index.html").read_text()
    text = " ".join(re.sub(r"<[^>]*>", " ", html.partition("<main>")[2]).split())
    test, fitted, scaled = results.test, results.temperature, results.scaled
    assert fitted and scaled and f"Temperature {fitted.value:.3f} (95% interval {fitted.low:.3f}" in text
    assert "30 validation images, on which the best epoch was selected, too" in text
    row = f"loss {test.loss:.3f} .* {scaled.loss:.3f} .* {scaled.loss - test.loss:+.3f} "
    assert re.search(row, text)
    assert "2 of 30 test images (6.7%)" in text and "1 of them equal in every pixel" in text
    rest = np.delete(test.predicted == test.labels, [3, 8])
    assert f"Accuracy without them: {100 * rest.mean():.2f}% of 28" in text
    assert "of the 20 slices is weaker than chance explains" in text
    item, row = embedded(html)["items"][0], test.errors[0]
    assert test.features is not None and results.known and results.known.features is not None
    cosines = [
        float(test.features[row] @ other / np.linalg.norm(test.features[row]) / np.linalg.norm(other))
        for other in results.known.features
    ]
    nearest = sorted(range(30), key=lambda one: -cosines[one])[:5]
    assert item["neighbors"] == [[2 * one, pytest.approx(cosines[one], abs=1e-3)] for one in nearest]
    labels = results.data.splits.train.labels
    assert all(embedded(html)["train"][str(2 * one)][0] == labels[2 * one] for one in nearest)


@pytest.mark.usefixtures("blank_figures")
def test_parts_that_were_not_requested_say_so(make_results: Callable[..., RunResults], tmp_path: Path) -> None:
    html, writer = build(make_results(), tmp_path, slices=False, num_cams=0)
    assert writer.failures == {}
    assert "No temperature: there are no validation images for it (data.val_size)" in html
    assert "Not computed: scores.slices" in html and "were not searched: scores.duplicates" in html


@pytest.mark.usefixtures("blank_figures")
def test_only_the_highest_losses_can_be_listed(results: RunResults, tmp_path: Path) -> None:
    html, _ = build(results, tmp_path, max_listed=5)
    facts = dict(re.findall(r'<tr><th scope="row">([^<]*)</th><td>([^<]*)</td></tr>', html.partition('id="facts"')[2]))
    assert (facts["data"], facts["classes"], facts["image size"]) == ("digits", "3", "32 px")
    assert (facts["training images"], facts["validation images"], facts["test images"]) == ("60 of 60", "0", "30 of 30")
    data = embedded(html)
    assert [item["index"] for item in data["items"]] == results.test.errors[:5].tolist()
    assert data["numErrors"] == 5 and all(position < 5 for position in data["labelIssues"])
    assert data["totalErrors"] == len(results.test.errors)  # why a cell of the confusion matrix leads to fewer images
    assert f"The 5 of {len(results.test.errors)} misclassified test images" in html


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("size", [32, 48, 96])
def test_page_with_a_hundred_errors_stays_below_5_mb(
    splits: DataSplits, make_results: Callable[..., RunResults], tmp_path: Path, size: int
) -> None:
    large = splits.test.images.repeat(3, axis=1).repeat(3, axis=2)[:, :size, :size]
    noisy = large ^ np.random.default_rng(0).integers(0, 64, large.shape, dtype=np.uint8)  # hard to compress
    test = Split(noisy, splits.test.labels)
    results = make_results(splits=DataSplits(splits.train, test, CLASSES, splits.mean, splits.std))
    results.data.image_size = size
    html, writer = build(results, tmp_path, num_cams=3)
    item = max(len(json.dumps(item)) for item in embedded(html)["items"])
    assert len(html) + 100 * item < 5e6
    assert writer.failures == {}


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("name", ["mistyped", "classes", "results"])
def test_section_without_template_does_not_break_the_page(
    name: str, results: RunResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SECTIONS, name, Section("New", lambda *_: 42))
    html, writer = build(results, tmp_path, num_cams=0)
    assert list(writer.failures) == [f"HTMLReport ({name})"]
    assert embedded(html)["classes"] == list(CLASSES) and "What exactly ran?" in html


@pytest.mark.usefixtures("blank_figures")
def test_failed_section_is_replaced_by_the_reason(
    results: RunResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the matrix is <singular>")

    monkeypatch.setitem(SECTIONS, "confusion", Section("Which classes does it confuse?", broken))
    html, writer = build(results, tmp_path)
    assert writer.failures == {"HTMLReport (confusion)": "the matrix is <singular>"}
    assert "could not be created: the matrix is <singular>" in capsys.readouterr().err
    assert "RuntimeError: the matrix is <singular>" in (tmp_path / "failures.txt").read_text()
    assert html.count("the matrix is &lt;singular&gt;") == 2  # at the top and in the section
    assert len(embedded(html)["items"]) >= results.test.errors.size


@pytest.mark.usefixtures("blank_figures")
def test_page_without_errors(make_results: Callable[..., RunResults], tmp_path: Path) -> None:
    html, writer = build(make_results(wrong=0), tmp_path)
    assert writer.failures == {}
    assert "nothing to explain" in html


@pytest.mark.usefixtures("blank_figures")
def test_page_with_a_thousand_classes_stays_small(
    splits: DataSplits, make_results: Callable[..., RunResults], tmp_path: Path
) -> None:
    rng, rows = np.random.default_rng(0), np.arange(30)
    table = rng.uniform(0, 1, (30, 1000))
    table[rows, rows] += 2
    test = Predictions(rows, (rows * 7) % 1000, np.log(table / table.sum(axis=1, keepdims=True)))
    names = tuple(f"class {number}" for number in range(1000))
    results = make_results(splits=DataSplits(splits.train, splits.test, names, splits.mean, splits.std), test=test)
    html, writer = build(results, tmp_path, num_cams=1)
    assert writer.failures == {} and len(html) < 3e6
    for item, row in zip(embedded(html)["items"], test.errors, strict=False):
        assert len(item["p"]) <= 11 and {str(test.labels[row]), str(row)} <= set(item["p"])
    assert embedded(html)["items"][0]["index"] == test.errors[0]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [500, pytest.param(1600, marks=pytest.mark.slow)])  # Chromium's minimum is 500 px
def test_page_in_a_browser(results: RunResults, page_folder: Path, tmp_path: Path, width: int) -> None:
    assert CHROMIUM
    html = (page_folder / "index.html").read_text()
    driven = tmp_path / "driven.html"
    driven.write_text(html.replace("</body>", DRIVER + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=20000"]
    result = subprocess.run(
        [CHROMIUM, *options, "--enable-logging=stderr", "--dump-dom", driven.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ":CONSOLE" not in result.stderr
    found = re.search(r'<pre id="seen">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found, result.stdout[-2000:]
    seen = json.loads(found[1])
    assert seen["errors"] == [] and seen["unnamed"] == 0
    assert seen["width"] == width and seen["wide"] <= width  # nothing sticks out
    assert len(set(seen["row"])) == len(set(seen["tops"])) == 1  # tiles of a row have one height, images one line
    assert seen["uncaptioned"] == 0
    assert seen["all"] == len(results.test.errors)
    assert seen["cell"][0] == seen["cell"][1] > 0
    assert seen["confidence"] == sorted(seen["confidence"], reverse=True) and len(seen["confidence"]) == seen["all"]
    assert seen["open"] and seen["cams"] == 19 and seen["neighbors"] == 5 and min(seen["painted"]) > 1
    assert seen["next"] and seen["back"] and seen["closed"]
    assert seen["sorted"] == sorted(seen["sorted"], reverse=True)
    assert min(seen["controls"]) > 0 == max(seen["printed"]) == seen["cut"] and seen["colors"] == "exact"
