"""Kill training runs, fill their disks and stop their processes, and check that nothing is lost: scripts/inject_faults.

Each result is compared with an undisturbed run: weights, optimizer state, metrics and misclassified images.
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # cifar_lit, if it is not installed
os.environ.setdefault("OMP_NUM_THREADS", "1")  # equal for all compared runs; more threads would not be faster

from harness import Row, Settings

PARTS = {
    "resume": "kill runs at random instants and resume them",
    "checkpoint_writes": "kill a process while it writes checkpoints to a slow disk",
    "full_disk": "fill the disk during training, checkpointing, decoding and reporting",
    "process_agreement": "compare 1, 2 and 3 processes, on one and on two machines",
    "process_death": "kill or stop one of several processes, or a worker",
}


def main() -> None:
    """Run the selected parts; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        "scripts/inject_faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {name:18} {what}" for name, what in PARTS.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to run (default: all)")
    parser.add_argument("--runs", type=int, default=30, help="number of runs to kill (default: %(default)s)")
    parser.add_argument("--writes", type=int, default=100, help="kills during checkpoint writes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, help="new or empty folder for the runs; removed unless a part fails")
    parser.add_argument("--simulate-disk", action="store_true", help="simulate the full disk instead of mounting one")
    parser.add_argument("--quick", action="store_true", help="a short form of each part: 1 run, 10 checkpoint writes")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.writes = 1, 10
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    if options.scratch and options.scratch.exists() and any(options.scratch.iterdir()):
        parser.error(f"--scratch {options.scratch}: the folder is not empty; give a new one")  # removed at the end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up: unmount disks, stop the fork server
    rows: list[Row] = []
    start = time.monotonic()
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="cifar_lit_faults_"))
    scratch = scratch.absolute()  # the runs have other working directories
    for name in options.parts or PARTS:
        print(f"{name}: {PARTS[name]}", file=sys.stderr, flush=True)
        folder = scratch / name
        folder.mkdir(parents=True)
        settings = Settings(options.seed, options.runs, options.writes, folder, options.quick, options.simulate_disk)
        for row in importlib.import_module(name).inject(settings):
            verdict = "survived" if row.survived else "FAILED"
            print(f"  {verdict}: {row.what}; {row.fault}: {row.result}", file=sys.stderr, flush=True)
            rows.append(row)
    print("| part | what | fault | result | survived |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.part} | {row.what} | {row.fault} | {row.result} | {'yes' if row.survived else '**no**'} |")
    failed = [row for row in rows if not row.survived]
    print(
        f"\n{len(rows) - len(failed)} of {len(rows)} survived ({time.monotonic() - start:.0f} s, seed {options.seed})"
    )
    if failed:
        print(f"the failed runs are in {scratch}")
        sys.exit(1)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
