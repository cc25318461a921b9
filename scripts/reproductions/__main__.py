"""Train recipes, seed after seed, and write down what they reach: `scripts/reproduce`.

Finished trainings are kept and interrupted ones gone on with, so the same command can be given again at any time. The
trainings are ordinary runs in lightning_logs/.
"""

import argparse
import sys
from pathlib import Path

from ablations import CHANGES, SPLIT

ROOT = Path(__file__).resolve().parents[2]
NOT_MEASURED = {"demo"}


def main() -> None:
    """Train what is not trained yet."""
    recipes = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.stem not in NOT_MEASURED}
    parser = argparse.ArgumentParser(
        "scripts/reproduce",
        usage="%(prog)s [options] RECIPE ... [-- OPTIONS OF python -m cifar_lit.fit]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"recipes: {', '.join(recipes)}\n\nwhat --try tries:\n"
        + "\n".join(f"  {name:28} {' '.join(args)}" for name, args in CHANGES.items()),
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="which recipes")
    parser.add_argument("--all", action="store_true", help="all recipes")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="shorten every training to so many; marked in the table")
    parser.add_argument("--data", metavar="NAME", help="what the table calls the pictures, if not CIFAR-10 itself")
    parser.add_argument("--try", action="store_true", dest="tries", help="change one thing at a time, on the split")
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder of RESULTS.md and results.json (default: here)"
    )
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options, further = parser.parse_args(given[:cut]), tuple(given[cut + 1 :])
    if unknown := set(options.recipes) - set(recipes):
        parser.error(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(recipes)}")
    names = list(recipes) if options.all else options.recipes
    if not names:
        parser.error(f"give recipes, of {', '.join(recipes)}, or --all")
    if options.seeds < 1 or (options.epochs is not None and options.epochs < 1):
        parser.error("--seeds and --epochs must be 1 or more")
    if not options.out.is_dir():
        parser.error(f"--out {options.out}: there is no such folder")
    sys.path.insert(0, str(ROOT))  # the project itself, where it is not installed
    from cifar_lit.errors import UsageError

    try:
        _train(options, [recipes[name] for name in names], further)
    except UsageError as error:
        sys.exit(f"error: {error}")


def _train(options: argparse.Namespace, recipes: list[Path], further: tuple[str, ...]) -> None:
    from results import keep, record, write
    from training import Training, finished  # here, because they wait for torch

    changes = {name: (*SPLIT, *args) for name, args in CHANGES.items()} if options.tries else {"": ()}
    wanted = [
        Training(recipe, seed, options.epochs, (*further, *args), change)
        for recipe in recipes
        for change, args in changes.items()
        for seed in range(options.seeds)
    ]
    failed = []
    for training in wanted:
        code, seconds = (0, None) if finished(training.begun()) else training.train()
        run = training.begun()
        done = finished(run)
        if code >= 128:
            print("stopped; what is done is kept, and the same command goes on", file=sys.stderr)
            sys.exit(code)
        if code == 2:
            sys.exit(2)  # the options are the same for all
        if not run or not done:
            failed.append(" ".join(training.args))
            continue
        records = keep(options.out / "results.json", record(training, done, run, options.data, seconds))
        write(options.out / "RESULTS.md", records)
    if failed:
        sys.exit("error: without a result, for the reasons above:\n" + "\n".join(failed))
    print(f"\n{options.out / 'RESULTS.md'}, {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
