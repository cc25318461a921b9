"""Fine-tune on five classes of CIFAR-10 from the weights of the other five, and compare with training from scratch.

The images are those of ROOT/train/CLASS. The first five classes pretrain a network with the recipe imagenet_stem,
unless a run is given. Then the recipe finetune, at 32 px, learns the last five with 50 images a class, three times with
others: from scratch, fine-tuned, and with only the last layer trained; with the recipe's learning rate, which was not
tuned for any of them. The same 1,000 other images a class test all of them. Finished runs are kept, and interrupted
ones are resumed, so that the same command can be repeated.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRAWS = (0, 1, 2)
EPOCHS = 30
BRIEF = [
    "--misclassified.k=1",
    "--samples.k=1",
    "--page.num_cams=0",
    "--report=quick",
    "--projector.num_images=0",
    "--data.train_eval_size=250",
]
COMMON = [f"--trainer.max_epochs={EPOCHS}", "--data.source=folder", "--data.image_size=32", "--data.crop_padding=4"]
COMMON += ["--data.val_size=0", "--data.num_workers=0", "--trainer.precision=32-true", *BRIEF]
ARMS = {
    "from scratch": ["--model.weights=null", "--model.freeze_epochs=0", "--model.backbone_lr_mult=1"],
    "fine-tuned": ["--model.freeze_epochs=4"],
    "last layer only": [f"--model.freeze_epochs={EPOCHS - 1}"],
}


def link(images: Path, folder: Path, classes: list[str], splits: dict[str, slice]) -> Path:
    """Make an image folder of links to parts of each class, in an order that is random but always the same."""
    for name in classes:
        files = sorted((images / "train" / name).iterdir())
        random.Random(0).shuffle(files)
        for split, part in splits.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for file in files[part]:
                with contextlib.suppress(FileExistsError):
                    (folder / split / name / file.name).symlink_to(file.resolve())
    return folder


def accuracy(name: str, recipe: str, *args: str) -> float:
    """Return the test accuracy of a training in `lightning_logs` of the folder `name`, after doing it if needed."""
    from cifar_lit.fit import main

    here = Path.cwd()
    Path(name).mkdir(parents=True, exist_ok=True)
    os.chdir(name)
    try:
        if not list(Path().glob("lightning_logs/*/version_*/report/metrics.json")):
            main(["--config", recipe, "--ckpt_path=auto", *args])
        (file,) = Path().glob("lightning_logs/*/version_*/report/metrics.json")
        return float(json.loads(file.read_text(encoding="utf-8"))["test"]["accuracy"])
    finally:
        os.chdir(here)


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser("finetuning.py", description=__doc__)
    parser.add_argument("images", type=Path, metavar="ROOT", help="folder with train/CLASS/ of ten classes of 32 px")
    parser.add_argument("--weights", type=Path, metavar="RUN", help="run of the first five classes; default: train it")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))  # cifar_lit, if it is not installed
    images = options.images.resolve()
    classes = sorted(path.name for path in (images / "train").iterdir())
    known, new = classes[:5], classes[5:]
    weights = options.weights
    if weights is None:
        data = link(images, Path("images/pretraining"), known, {"train": slice(500, None), "test": slice(500)})
        pretraining = ["--data.source=folder", f"--data.root={data.resolve()}", "--data.val_size=2500"]
        accuracy("pretraining", "imagenet_stem", *pretraining, "--trainer.max_epochs=15")
        (weights,) = Path("pretraining").glob("lightning_logs/*/version_*")
    arms = {name: [f"--model.weights={weights.resolve()}", *args] for name, args in ARMS.items()}
    results: dict[str, list[float]] = {}
    for draw in DRAWS:
        start = 1000 + 50 * draw
        data = link(images, Path(f"images/draw_{draw}"), new, {"train": slice(start, start + 50), "test": slice(1000)})
        common = [*COMMON, f"--data.root={data.resolve()}", f"--seed_everything={draw}"]
        for name, args in arms.items():
            score = accuracy(f"{name}/draw_{draw}", "finetune", *common, *args)
            results.setdefault(name, []).append(100 * score)
            print(f"{name}, draw {draw}: {100 * score:.2f}%", flush=True)
    print(f"\n| {', '.join(new)} | test accuracy | of the three draws |\n|---|---|---|")
    for name, values in results.items():
        each = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}% | {each} |")


if __name__ == "__main__":
    main()
