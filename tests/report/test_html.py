"""The report's page: as a file, and in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cifar_lit.analysis.predictions import Predictions
from cifar_lit.data.dataset import DataSplits, Split
from cifar_lit.models.resnet import ResNet18
from cifar_lit.report import html as page

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
  const cell = document.querySelector(".confusion button");
  cell.click();
  seen.cell = [+cell.textContent, tiles().length];
  document.querySelector(".filters button").click();
  await wait(50);
  const order = document.querySelector("select[name=order]");
  order.value = "confidence";
  order.dispatchEvent(new Event("change", { bubbles: true }));
  seen.confidence = [...tiles()].map((tile) => parseFloat(tile.textContent.split("→")[1].match(/([\\d.]+) %/)[1]));
  tiles()[0].click();
  await until(() => canvases().length);
  seen.open = document.getElementById("image").open;
  seen.maps = canvases().length;
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
  seen.errors = errors;
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
})();
</script>
"""


@pytest.fixture
def analysis(splits: DataSplits) -> Any:
    """A run in which every third test image is wrong."""
    torch.manual_seed(0)
    splits = DataSplits(splits.train, splits.test, CLASSES, splits.mean, splits.std)
    rng, labels = np.random.default_rng(0), splits.test.labels
    table = rng.uniform(0.05, 0.3, (len(labels), 3))
    table[np.arange(len(labels)), [(y + (i % 3 == 0)) % 3 for i, y in enumerate(labels)]] += 1
    test = Predictions(np.arange(len(labels)), labels, np.log(table / table.sum(axis=1, keepdims=True)))
    speed = {"train/images_per_second": 500.0, "train/data_time_fraction": 0.01}
    rows = [
        {"epoch": i, "seconds": 2.0, **speed, "train/loss": 2 - i / 3, "train/accuracy": i / 4, "lr": 0.1}
        for i in range(3)
    ]
    return SimpleNamespace(
        test=test,
        train=test,
        data=SimpleNamespace(splits=splits, image_size=32, train_dataset=splits.train),
        net=ResNet18(3, splits.mean, splits.std, stem="imagenet").eval().requires_grad_(False),
        trainer=SimpleNamespace(
            limit_train_batches=1.0, strategy=SimpleNamespace(root_device="cpu"), is_global_zero=True
        ),
        weights="best weights, epoch 3",
        history=rows,
        run=Path("demo/version_0"),
        flip_tta=None,
        evaluated=None,
        problems={},
    )


def build(analysis: Any, folder: Path, **options: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    html, readme = page.build(
        analysis, folder, **{"listed": None, "scored": 3, "explained": 8, "method": "GradCAM", **options}
    )
    (folder / "index.html").write_text(html)
    (folder / "README.md").write_text(readme)
    return html


def embedded(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_nothing_is_fetched_and_nothing_breaks_out(analysis: Any, tmp_path: Path) -> None:
    html = build(analysis, tmp_path)
    assert analysis.problems == {}

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
    assert embedded(html)["classes"] == list(CLASSES)


def test_the_data_are_those_of_the_run(analysis: Any, tmp_path: Path) -> None:
    data, test = embedded(build(analysis, tmp_path)), analysis.test
    assert [item["index"] for item in data["items"][: data["errors"]]] == test.errors.tolist()
    for item, row in zip(data["items"], test.errors, strict=False):
        assert (item["true"], item["predicted"]) == (test.labels[row], test.predicted[row])
        assert list(item["p"].values()) == pytest.approx(test.probabilities[row].tolist(), abs=1e-4)
    assert ["maps" in item for item in data["items"]] == [i < 8 for i in range(len(data["items"]))]
    assert set(data["items"][0]["maps"]) == {"layer1", "layer2", "layer3", "layer4"}
    assert {layer: len(pairs) for layer, pairs in data["road"].items()} == dict.fromkeys(data["items"][0]["maps"], 3)
    readme = (tmp_path / "README.md").read_text()
    assert f"**{100 * test.accuracy:.2f} %**" in readme and "&lt;b&gt;bee" in readme


def test_only_the_most_wrong_can_be_listed(analysis: Any, tmp_path: Path) -> None:
    html = build(analysis, tmp_path, max_listed=5)
    data = embedded(html)
    assert [item["index"] for item in data["items"]] == analysis.test.errors[:5].tolist()
    assert data["errors"] == 5 and all(place < 5 for place in data["suspects"])
    assert f"The 5 most wrong of {len(analysis.test.errors)} misclassified test images" in html


@pytest.mark.parametrize("size", [32, 48, 96])
def test_a_hundred_errors_stay_below_5_mb(analysis: Any, tmp_path: Path, size: int) -> None:
    splits = analysis.data.splits
    large = splits.test.images.repeat(3, axis=1).repeat(3, axis=2)[:, :size, :size]
    noisy = large ^ np.random.default_rng(0).integers(0, 64, large.shape, dtype=np.uint8)  # hard to compress
    analysis.data.splits = DataSplits(splits.train, Split(noisy, splits.test.labels), CLASSES, splits.mean, splits.std)
    analysis.data.image_size = size
    html = build(analysis, tmp_path, num_cams=3, num_road=1)
    item = max(len(json.dumps(item)) for item in embedded(html)["items"])
    assert len(html) + 100 * item < 5e6
    assert analysis.problems == {}


def test_a_section_that_fails_gives_way_to_the_reason(
    analysis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the matrix is <singular>")

    monkeypatch.setattr("cifar_lit.analysis.faithfulness.road", broken)
    html = build(analysis, tmp_path)
    assert analysis.problems == {"Page (trust)": "the matrix is <singular>"}
    assert "Page (trust) could not be made: the matrix is <singular>" in capsys.readouterr().err
    assert "RuntimeError: the matrix is <singular>" in (tmp_path / "problems.txt").read_text()
    assert html.count("the matrix is &lt;singular&gt;") == 2  # at the top and in its place
    assert len(embedded(html)["items"]) >= analysis.test.errors.size


def test_no_errors_at_all(analysis: Any, tmp_path: Path) -> None:
    table = np.full((30, 3), 0.1)
    table[np.arange(30), analysis.test.labels] = 0.8
    analysis.test = Predictions(analysis.test.indices, analysis.test.labels, np.log(table))
    html = build(analysis, tmp_path)
    assert analysis.problems == {}
    assert "nothing to explain" in html


def test_many_classes_do_not_make_the_page_heavy(analysis: Any, tmp_path: Path) -> None:
    classes, rng = 1000, np.random.default_rng(0)
    splits, rows = analysis.data.splits, np.arange(30)
    table = rng.uniform(0, 1, (30, classes))
    table[rows, rows] += 2
    analysis.test = Predictions(rows, (rows * 7) % classes, np.log(table / table.sum(axis=1, keepdims=True)))
    names = tuple(f"class {number}" for number in range(classes))
    analysis.data.splits = DataSplits(splits.train, splits.test, names, splits.mean, splits.std)
    analysis.net = ResNet18(classes, splits.mean, splits.std, stem="imagenet").eval().requires_grad_(False)
    html = build(analysis, tmp_path, num_cams=1, num_road=1)
    assert analysis.problems == {} and len(html) < 3e6
    for item, row in zip(embedded(html)["items"], analysis.test.errors, strict=False):
        assert len(item["p"]) <= 11 and {str(analysis.test.labels[row]), str(row)} <= set(item["p"])
    assert embedded(html)["items"][0]["index"] == analysis.test.errors[0]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [500, 1600])  # Chromium's windows are no narrower than 500 px
def test_in_a_browser(analysis: Any, tmp_path: Path, width: int) -> None:
    assert CHROMIUM
    html = build(analysis, tmp_path)
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
    assert seen["all"] == len(analysis.test.errors)
    assert seen["cell"][0] == seen["cell"][1] > 0
    assert seen["confidence"] == sorted(seen["confidence"], reverse=True) and len(seen["confidence"]) == seen["all"]
    assert seen["open"] and seen["maps"] == 12 and min(seen["painted"]) > 1
    assert seen["next"] and seen["back"] and seen["closed"]
    assert seen["sorted"] == sorted(seen["sorted"], reverse=True)
