"""Kill it, starve it, cut it off: does a training lose anything? `scripts/inject_faults`."""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project itself, where it is not installed
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for all runs that are compared; more would not be faster

from harness import Row, Settings

PARTS = {
    "resuming": "runs killed at random instants and gone on with, against undisturbed ones",
    "writing": "a process killed while it writes checkpoints to a slow disk",
    "full_disk": "a disk that gets full while training, saving, decoding and reporting",
    "agreeing": "1, 2 and 3 processes, on one and on two machines, against each other",
    "dying": "one of several processes, or a worker, killed or stopped",
}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        "scripts/inject_faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {name:11} {what}" for name, what in PARTS.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="which parts; all by default")
    parser.add_argument("--runs", type=int, default=30, help="how many runs to kill (default: %(default)s)")
    parser.add_argument("--writes", type=int, default=100, help="kills while writing (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, help="new or empty folder for the runs, removed unless one is lost")
    parser.add_argument("--made-up-disk", action="store_true", help="as where no file system may be mounted")
    parser.add_argument("--quick", action="store_true", help="a short form of each: 1 run, 10 kills while writing")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.writes = 1, 10
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.scratch and options.scratch.exists() and any(options.scratch.iterdir()):
        parser.error(f"--scratch {options.scratch}: not an empty folder; name a new one")  # it is removed at the end
    rows: list[Row] = []
    began = time.monotonic()
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="cifar_lit_faults_"))
    for name in options.parts or PARTS:
        print(f"{name}: {PARTS[name]}", file=sys.stderr, flush=True)
        where = scratch / name
        where.mkdir(parents=True)
        rows += importlib.import_module(name).measure(
            Settings(options.seed, options.runs, options.writes, where, options.quick, options.made_up_disk)
        )
    print("| part | what | how | result | survived |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.part} | {row.what} | {row.how} | {row.result} | {'yes' if row.survived else '**no**'} |")
    lost = [row for row in rows if not row.survived]
    print(f"\n{len(rows) - len(lost)} of {len(rows)} survived ({time.monotonic() - began:.0f} s, seed {options.seed})")
    if not lost:
        shutil.rmtree(scratch)
    else:
        print(f"what was lost lies in {scratch}")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
