"""Measure the speed of this project side by side with common alternatives: scripts/bench."""

import argparse
import datetime
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # cifar_lit, if it is not installed

from harness import Row, Settings, measure, save, table

PARTS = {
    "augmentation": "augmentation on one core, in workers and in batches",
    "loop": "overhead of Lightning and of this project in a training step",
    "startup": "from the command to the first message, and to the first step",
    "step": "one training step of ResNet-18",
    "throughput": "training with data loading",
    "folder": "reading a folder of 60,000 JPEG files",
    "memory": "memory of each additional worker",
    "report": "the report at the end of the training",
    "predict": "classifying image files: decoding beside the forward pass, and memory",
    "processes": "one process or two",
    "scaling": "5,000 to 500,000 images",
    "end_to_end": "on a GPU, from the command to the report",
}
NEED_IMAGES = {"throughput", "folder", "memory", "report", "end_to_end"}


def main() -> None:
    """Run the selected parts, each in a process of its own: none inherits the threads and the memory of another."""
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n"
        + "\n".join(f"  {name:13} {what}" for name, what in PARTS.items())
        + "\n\nGoals in the table: 'must' is required, 'aim' is desired."
        "\nAll parts take about 15 minutes on two cores, most single parts one or two minutes.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="only check that everything runs; ignore the numbers")
    parser.add_argument("--root", type=Path, help="image folder (train/, test/) to use instead of synthetic images")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON output file (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    if options.root and not (options.root / "train").is_dir():
        parser.error(f"--root {options.root}: it has no folder train/")

    import torch
    from synthetic import generate

    from cifar_lit.models.resnet import smallest_strided
    from cifar_lit.utils.environment import describe
    from cifar_lit.utils.hardware import choose_device, choose_precision

    precision, device = choose_precision(choose_device("auto"), smallest_strided(32, "cifar"))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pytorch_lightning", "torchvision"])  # imported once
    provenance: dict[str, object] = describe()  # first, because the commit may change meanwhile
    rows: list[Row] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cifar_lit_bench_") as temporary:
        scratch = Path(temporary)
        root = options.root.resolve() if options.root else scratch / "images"
        if not options.root and NEED_IMAGES & set(options.parts or PARTS):
            counts = (1000, 300) if options.quick else (50_000, 10_000)
            print(f"writing {sum(counts):,} images", file=sys.stderr, flush=True)
            generate(root, *counts)
        for name in options.parts or PARTS:
            print(f"{name} ... ", end="", file=sys.stderr, flush=True)
            part_start = time.monotonic()
            folder = scratch / name
            folder.mkdir()
            with ProcessPoolExecutor(1, processes) as process:
                measured = process.submit(measure, name, Settings(options.quick, root, folder)).result()
            print(f"{time.monotonic() - part_start:.0f} s", file=sys.stderr, flush=True)
            for row in measured:
                print(f"  {row.what}: {row.ours}; {row.peer}; {row.result}", file=sys.stderr, flush=True)
            rows += measured
    provenance |= {
        "command": shlex.join(["scripts/bench", *sys.argv[1:]]),
        "quick": options.quick,
        "images": "real" if options.root else "synthetic",
        "device": device,
        "precision": precision,
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - start),
    }
    print("{cpu}, {cores} cores, {device}; torch {torch}; commit {commit}\n".format(**provenance))
    print(table(rows))
    save(options.out, provenance, rows)
    print(f"\n{options.out}: all rounds, versions and hardware ({provenance['seconds']} s)")


if __name__ == "__main__":
    main()
