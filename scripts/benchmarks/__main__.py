"""Measure this project's speed beside that of the usual ways: `scripts/bench`."""

import argparse
import datetime
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project itself, where it is not installed

from harness import Row, Settings, save, table

PARTS = {
    "augmentation": "augmentation on one core, in workers and in batches",
    "loop": "what Lightning and this project add to a step",
    "start": "from the command to the first answer, and to the first step",
    "step": "one training step of ResNet-18",
    "throughput": "training from the images on",
    "folder": "a folder of 60,000 JPEG files",
    "memory": "each additional worker's memory",
    "ending": "the end of fitting",
    "processes": "one process or two",
    "growth": "5,000 to 500,000 images",
    "whole": "on a GPU, from the command to the report",
}
PICTURES = {"throughput", "folder", "memory", "ending", "whole"}  # the parts that read a folder of them


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n"
        + "\n".join(f"  {name:13} {what}" for name, what in PARTS.items())
        + "\n\nThe goals in the table are this project's own: must is wanted, aim is hoped for."
        "\nAll parts take about a quarter of an hour on two cores, most single ones a minute or two.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="which parts; all by default")
    parser.add_argument(
        "--quick", action="store_true", help="only check that everything works: the figures mean nothing"
    )
    parser.add_argument("--root", type=Path, help="a folder of images (train/, test/) in place of generated ones")
    parser.add_argument(
        "--out", type=Path, default=Path("bench.json"), help="where the JSON goes (default: %(default)s)"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.root and not (options.root / "train").is_dir():
        parser.error(f"--root {options.root}: no folder train/ in it")

    import torch
    from images import generate

    from cifar_lit.models.resnet import smallest_strided
    from cifar_lit.utils.hardware import choose_device, choose_precision, describe, keep_freed_memory

    keep_freed_memory()  # as fit does, on a CPU; for both sides
    precision, device = choose_precision(choose_device("auto"), smallest_strided(32, "cifar"))
    notes: dict[str, object] = describe()  # now: the commit may be another one at the end
    rows: list[Row] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cifar_lit_bench_") as folder:
        scratch = Path(folder)
        if not set(options.parts or PARTS) & PICTURES:
            root = scratch
        elif options.root:
            root = options.root.resolve()
        else:
            counts = (1000, 300) if options.quick else (50_000, 10_000)
            print(f"writing {sum(counts):,} images", file=sys.stderr, flush=True)
            root = generate(scratch / "images", *counts)
        for name in options.parts or PARTS:
            print(f"{name} ... ", end="", file=sys.stderr, flush=True)
            now = time.monotonic()
            where = scratch / name
            where.mkdir()
            found = importlib.import_module(name).measure(Settings(options.quick, root, where))
            print(f"{time.monotonic() - now:.0f} s", file=sys.stderr, flush=True)
            for row in found:
                print(f"  {row.what}: {row.ours}; {row.peer}; {row.result}", file=sys.stderr, flush=True)
            rows += found
    notes |= {
        "command": " ".join(["scripts/bench", *sys.argv[1:]]),
        "quick": options.quick,
        "images": "real" if options.root else "generated",
        "device": device,
        "precision": precision,
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - began),
    }
    print(f"{notes['cpu']}, {notes['cores']} cores, {device}; torch {notes['torch']}; commit {notes['commit']}\n")
    print(table(rows))
    save(options.out, notes, rows)
    print(f"\n{options.out}: all rounds, versions and hardware ({notes['seconds']} s)")


if __name__ == "__main__":
    main()
