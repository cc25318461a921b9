"""Kill a process while it writes a checkpoint to a slow disk: the old or the new file must be there, complete."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from harness import Row, Settings, WrappedFile

from cifar_lit.models import weights
from cifar_lit.training.checkpointing import AtomicCheckpointIO
from cifar_lit.utils import files

CHUNK = 1 << 16  # bytes


class SlowFile(WrappedFile):
    """A file on a slow disk."""

    def write(self, content: Any) -> None:
        for start in range(0, len(content), CHUNK):
            self.file.write(content[start : start + CHUNK])
            self.file.flush()
            time.sleep(0.002)


def inject(settings: Settings) -> Iterator[Row]:
    """Kill the writer many times; each new writer continues from the checkpoint on disk."""
    rng = random.Random(settings.seed)
    path = settings.scratch / "last.ckpt"
    lost = damaged = during_write = 0
    newest = -1
    for _ in range(settings.writes):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                _write_forever(path, newest + 1, writer)
            finally:
                os._exit(1)
        os.close(writer)
        first = int(os.read(reader, 16))  # wait for the first checkpoint
        time.sleep(rng.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with os.fdopen(reader) as reported:
            saved = max([first, *(int(line) for line in reported)])
        during_write += path.with_name("last.ckpt.part").exists()
        try:
            checkpoint = weights.read(path)
            found = checkpoint["state_dict"]["weights"]
            newest = checkpoint["global_step"]
            damaged += not bool((found == newest).all())
            lost += newest < saved
        except Exception as error:
            print(f"  {error}", file=sys.stderr)
            damaged += 1
    yield Row(
        "checkpoint_writes",
        f"a checkpoint of 1 MB on a slow disk, {newest + 1} times",
        f"killed {settings.writes} times, {during_write} of them in the middle of the file",
        f"{damaged} damaged, {lost} lost",
        not damaged and not lost,
    )


def _write_forever(path: Path, number: int, reported: int) -> None:
    """Write checkpoints, and write the number of each to the file descriptor `reported` once it is saved."""
    mock.patch.object(files, "open", lambda *args, **kwargs: SlowFile(open(*args, **kwargs)), create=True).start()
    checkpoint_io = AtomicCheckpointIO()
    while True:
        checkpoint_io.save_checkpoint(_checkpoint(number), path)
        os.write(reported, f"{number}\n".encode())
        number += 1


def _checkpoint(number: int) -> dict[str, Any]:
    """Return 1 MB whose every element identifies the checkpoint."""
    return {"state_dict": {"weights": torch.full((1 << 18,), float(number))}, "global_step": number}
