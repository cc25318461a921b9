"""Every shipped recipe, through the same `main` that users call, on the built-in digits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS

RECIPES = sorted(CONFIGS.glob("*.yaml"))
SHORT = [
    "--data.source=digits",
    "--data.val_size=100",
    "--data.image_size=16",
    "--data.num_workers=0",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_test_batches=20",
    "--page.explained=5",
    "--page.scored=1",
]
DRAWN = {"imagenet_stem": 4}  # layers with a picture of their own


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs(recipe: Path, fit: Callable[..., Path]) -> None:
    run = fit("--config", str(recipe), *SHORT)
    assert run.parent.name == recipe.stem
    assert len(list((run / "report").glob("gradcam_layer*.png"))) == DRAWN.get(recipe.stem, 1)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_complete_and_says_how_to_run_it(recipe: Path) -> None:
    text = recipe.read_text()
    assert text.startswith(f"# Command:  scripts/fit --config configs/{recipe.name}")
    assert "# What for:" in text
    config = yaml.safe_load(text)
    assert set(config) >= {"seed_everything", "trainer", "data", "model", "misclassified"}
    assert {"source", "val_size", "batch_size", "crop_padding", "flip", "rotate_degrees", "cutout_size"} <= set(
        config["data"]
    )
    assert {"stem", "norm", "label_smoothing", "optimizer", "schedule"} <= set(config["model"])


def test_without_a_config_the_default_recipe_is_taken(fit: Callable[..., Path]) -> None:
    assert fit(*SHORT).parent.name == "onecycle"
