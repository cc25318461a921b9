"""Every recipe runs on the built-in digits, and its header is correct."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cifar_lit.fit import main
from tests.conftest import CONFIGS, ROOT

RECIPES = sorted(CONFIGS.glob("*.yaml"))
DIGITS = ["--data.source=digits", "--data.val_size=100", "--data.num_workers=0", "--trainer.log_every_n_steps=1"]
SHORT = [
    *DIGITS,
    "--data.image_size=16",
    "--data.batch_size=32",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_test_batches=0.1",
    "--data.train_eval_size=50",
    "--page.num_cams=5",
    "--report=quick",
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("blank_figures")
def test_recipe_trains(recipe: Path, imagenet_weights: Path) -> None:
    small = ["--data.image_size=8", "--data.batch_size=16", "--data.crop_padding=1", "--data.cutout_size=3"]
    if recipe.stem == "laptop":
        small += ["--data.image_size=12", "--data.progressive_crop=8"]
    few = ["--page.num_cams=0", "--projector.num_images=0", "--misclassified.k=1", "--samples.k=1", "--report=quick"]
    main(["--config", str(recipe), *DIGITS, *small, *few, "--trainer.fast_dev_run=2"])


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "layers"), [("onecycle", 1), ("imagenet_stem", 4)])
def test_recipe_has_a_report(recipe: str, layers: int, fit: Callable[..., Path]) -> None:
    run = fit("--config", recipe, *SHORT)
    assert run.parent.name == recipe
    assert len(list((run / "report").glob("gradcam_layer*.png"))) == layers


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_complete(recipe: Path) -> None:
    text = recipe.read_text()
    assert text.startswith(f"# Command:  scripts/fit --config {recipe.stem}")
    assert "# Purpose:" in text
    config = yaml.safe_load(text)
    assert set(config) >= {"seed_everything", "trainer", "data", "model", "misclassified"}
    assert {"source", "val_size", "batch_size", "crop_padding", "flip", "rotate_degrees", "cutout_size"} <= set(
        config["data"]
    )
    assert {"stem", "norm", "label_smoothing", "optimizer", "schedule"} <= set(config["model"])


def test_default_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for args in ([], ["--config", str(CONFIGS / "onecycle.yaml")]):
        with pytest.raises(SystemExit, match="0"):
            main([*args, "--print_config"])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("recipe", [path for path in RECIPES if path.stem != "demo"], ids=lambda path: path.stem)
def test_header_has_the_measured_accuracy(recipe: Path) -> None:
    header = " ".join(line[1:].strip() for line in recipe.read_text().splitlines() if line.startswith("#"))
    rows: dict[int, list[float]] = {}
    results = json.loads((ROOT / "docs" / "results.json").read_text())
    for result in results:
        if (result["recipe"], result["change"], result["options"]) == (recipe.stem, "", ""):
            rows.setdefault(result["epochs"], []).append(100 * result["test_accuracy"])
    for values in rows.values():
        assert f"{statistics.mean(values):.2f}%" in header
    length = yaml.safe_load(recipe.read_text())["trainer"]["max_epochs"]
    assert ("not yet at full length" in header) == (length not in rows)
