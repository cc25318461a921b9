"""Train recipes with several seeds and record the results: scripts/reproduce.

Finished runs are kept and interrupted ones are resumed, so the same command can be repeated at any time. The runs are
ordinary ones in lightning_logs/ of the current folder; existing runs of exactly the same command count. Tables are
written to results.md, after its lines <!-- results --> and <!-- ablations -->, and all numbers to results.json.
"""

import argparse
import sys
from pathlib import Path

from ablations import CHANGES, VALIDATION

ROOT = Path(__file__).resolve().parents[2]
EXCLUDED = {"demo", "finetune"}  # not CIFAR-10
RESERVED = {
    "--config": "the recipes come before it",
    "-c": "the recipes come before it",
    "--seed_everything": "--seeds N trains with the seeds 0 to N - 1",
    "--trainer.max_epochs": "--epochs shortens the training",
    "--ckpt_path": "interrupted runs are resumed automatically",
}
EXAMPLES = """examples:
  scripts/reproduce --all --seeds 5
  scripts/reproduce tuned baseline --epochs 3 --data "my copy" -- --data.source folder --data.root ROOT
"""


def main() -> None:
    """Train what has not been trained yet."""
    recipes = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.stem not in EXCLUDED}
    parser = argparse.ArgumentParser(
        "scripts/reproduce",
        usage="%(prog)s [options] RECIPE ... [-- OPTIONS OF python -m cifar_lit.fit]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"recipes: {', '.join(recipes)}\n\n{EXAMPLES}\nchanges of --ablations, besides the unchanged recipe:\n"
        + "\n".join(f"  {name:30} {' '.join(args)}" for name, args in CHANGES.items() if args),
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="recipes to train")
    parser.add_argument("--all", action="store_true", help="train all recipes")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0 (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="shorten each training to this many epochs; marked in the table")
    parser.add_argument(
        "--data", metavar="NAME", help="name of the data set in the table (default: CIFAR-10 is recognized)"
    )
    parser.add_argument(
        "--ablations",
        action="store_true",
        help="change one option at a time, and compare by accuracy on 5,000 validation images",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), help="existing folder for results.md and results.json (default: current)"
    )
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options, unknown_args = parser.parse_known_intermixed_args(given[:cut])
    fit_args = tuple(given[cut + 1 :])
    if unknown_args:
        parser.error(f"unrecognized arguments: {' '.join(unknown_args)}; options of fit go after --")
    names = [Path(name).stem if name.endswith(".yaml") else name for name in options.recipes]
    if unknown := set(names) - set(recipes):
        parser.error(f"unknown recipe {', '.join(sorted(unknown))}; choose from {', '.join(recipes)}")
    if options.all == bool(names):
        parser.error(f"give recipes ({', '.join(recipes)}) or --all")
    for name in ("seeds", "epochs"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be 1 or more, got {value}")
    for arg in fit_args:
        if remedy := RESERVED.get(arg.split("=")[0]):
            parser.error(f"{arg} cannot be given after --: {remedy}")
    if not options.out.is_dir():
        parser.error(f"--out {options.out}: no such folder")
    sys.path.insert(0, str(ROOT))  # cifar_lit, if it is not installed
    from cifar_lit.utils.errors import short_errors

    with short_errors():
        _train_all(options, [recipes[name] for name in names or recipes], fit_args)


def _train_all(options: argparse.Namespace, recipes: list[Path], fit_args: tuple[str, ...]) -> None:
    from results import add, read_text, record, summary, write_tables  # here, because they import cifar_lit
    from training import Training

    from cifar_lit.utils.errors import RunError

    read_text(options.out / "results.md")  # fail before the training, not after it
    changes = CHANGES if options.ablations else {"": ()}
    validation = VALIDATION if options.ablations else ()
    trainings = [
        Training(recipe, seed, options.epochs, (*validation, *fit_args, *args), change)
        for recipe in recipes
        for change, args in changes.items()
        for seed in range(options.seeds)
    ]
    failed = []
    for training in trainings:
        kept = training.finished_run()
        if not kept and training.train() == 2:
            sys.exit(2)  # the options are the same for all
        run = kept or training.finished_run()
        if not run:
            failed.append(training.name)
            continue
        new = record(training, run, options.data)
        write_tables(options.out / "results.md", add(options.out / "results.json", new))
        print(f"{training.name}{' (kept)' if kept else ''}: {summary(new)} ({run})", flush=True)
    if failed:
        raise RunError("these trainings have no result, see the messages above:\n" + "\n".join(failed))
    print(f"\n{options.out / 'results.md'}, {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
