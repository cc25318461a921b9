"""Train recipes, seed after seed, and write down what they reach: `scripts/reproduce`.

Finished trainings are kept and interrupted ones gone on with, so the same command can be given again at any time. The
trainings are ordinary runs in lightning_logs/ of the folder you are in; those of the very same command that
lie there already count, too. The tables go into RESULTS.md, after its lines <!-- results --> and <!-- tried -->, and
everything into results.json.
"""

import argparse
import sys
from pathlib import Path

from ablations import CHANGES, SPLIT

ROOT = Path(__file__).resolve().parents[2]
NOT_MEASURED = {"demo"}
OURS = {
    "--config": "the recipes come before it",
    "-c": "the recipes come before it",
    "--seed_everything": "--seeds N trains with the seeds 0 to N - 1",
    "--trainer.max_epochs": "--epochs shortens the training",
    "--ckpt_path": "the same command goes on by itself",
}
EXAMPLES = """examples:
  scripts/reproduce --all --seeds 5
  scripts/reproduce best baseline --epochs 3 --data "my copy" -- --data.source folder --data.root ROOT
"""


def main() -> None:
    """Train what is not trained yet."""
    recipes = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.stem not in NOT_MEASURED}
    parser = argparse.ArgumentParser(
        "scripts/reproduce",
        usage="%(prog)s [options] RECIPE ... [-- OPTIONS OF python -m cifar_lit.fit]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"recipes: {', '.join(recipes)}\n\n{EXAMPLES}\nwhat --try tries, besides the recipe as it is:\n"
        + "\n".join(f"  {name:28} {' '.join(args)}" for name, args in CHANGES.items() if args),
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="which recipes")
    parser.add_argument("--all", action="store_true", help="all recipes")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="shorten every training to so many; marked in the table")
    parser.add_argument("--data", metavar="NAME", help="what the table calls the images, if not CIFAR-10 itself")
    parser.add_argument(
        "--try",
        action="store_true",
        dest="tries",
        help="change one thing at a time, with 5000 training images held out to judge it by",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), help="existing folder of RESULTS.md and results.json (default: here)"
    )
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options, unknown_args = parser.parse_known_intermixed_args(given[:cut])
    further = tuple(given[cut + 1 :])
    if unknown_args:
        parser.error(f"unrecognized arguments: {' '.join(unknown_args)}; options of fit go after --")
    options.recipes = [Path(name).stem if name.endswith(".yaml") else name for name in options.recipes]
    if unknown := set(options.recipes) - set(recipes):
        parser.error(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(recipes)}")
    if options.all == bool(options.recipes):
        parser.error(f"give recipes, of {', '.join(recipes)}, or --all")
    for name in ("seeds", "epochs"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be 1 or more, got {value}")
    for arg in further:
        if remedy := OURS.get(arg.split("=")[0]):
            parser.error(f"{arg} cannot be given after --: {remedy}")
    if not options.out.is_dir():
        parser.error(f"--out {options.out}: there is no such folder")
    sys.path.insert(0, str(ROOT))  # the project itself, where it is not installed
    from cifar_lit.utils.errors import short_errors

    with short_errors():
        _train(options, [recipes[name] for name in options.recipes or recipes], further)


def _train(options: argparse.Namespace, recipes: list[Path], further: tuple[str, ...]) -> None:
    from results import keep, record, tell, text_of, write  # here, because they wait for torch
    from training import Training, finished

    from cifar_lit.utils.errors import RunError

    text_of(options.out / "RESULTS.md")  # not only after hours
    changes = CHANGES if options.tries else {"": ()}
    split = SPLIT if options.tries else ()
    wanted = [
        Training(recipe, seed, options.epochs, (*split, *further, *args), change)
        for recipe in recipes
        for change, args in changes.items()
        for seed in range(options.seeds)
    ]
    failed = []
    for training in wanted:
        run = training.begun()
        done = kept = finished(run)
        if not kept:
            if training.train(run) == 2:
                sys.exit(2)  # the options are the same for all
            run = training.begun()
            done = finished(run)
        if not run or not done:
            failed.append(training.name)
            continue
        new = record(training, done, run, options.data)
        write(options.out / "RESULTS.md", keep(options.out / "results.json", new))
        print(f"{training.name}{', kept' if kept else ''}: {tell(new)} ({run})", flush=True)
    if failed:
        raise RunError("without a result, for the reasons above:\n" + "\n".join(failed))
    print(f"\n{options.out / 'RESULTS.md'}, {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
