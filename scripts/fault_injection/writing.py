"""Kill a process while it writes a checkpoint to a slow disk: the old one or the new one must be there, whole."""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from harness import Row, Settings, WrappedFile

from cifar_lit.training import checkpoint_files
from cifar_lit.training.checkpoint_files import AtomicCheckpointIO
from cifar_lit.utils import files

PIECE = 1 << 16  # bytes


class SlowFile(WrappedFile):
    """A file on a disk that takes its time."""

    def write(self, content: Any) -> None:
        for start in range(0, len(content), PIECE):
            self.file.write(content[start : start + PIECE])
            self.file.flush()
            time.sleep(0.002)


def write_for_ever(path: Path, first: int, told: int) -> None:
    """Write one checkpoint after the other, and tell each that is said to be there."""
    mock.patch.object(files, "open", lambda *args, **kwargs: SlowFile(open(*args, **kwargs)), create=True).start()
    saver = AtomicCheckpointIO()
    while True:
        saver.save_checkpoint(content(first), path)
        os.write(told, f"{first}\n".encode())
        first += 1


def content(number: int) -> dict[str, Any]:
    """Return the number-th checkpoint, 1 MB that are told apart from the others' at every place."""
    return {"state_dict": {"weights": torch.full((1 << 18,), float(number))}, "global_step": number}


def measure(settings: Settings) -> list[Row]:
    """Kill it many times, each time going on after the checkpoint that is there."""
    draw = random.Random(settings.seed)
    path = settings.scratch / "last.ckpt"
    lost, torn, between = 0, 0, 0
    newest = -1
    for _ in range(settings.writes):
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                write_for_ever(path, newest + 1, writes)
            finally:
                os._exit(1)
        os.close(writes)
        os.read(reads, 16)  # the first one is there
        time.sleep(draw.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        said = newest + 1
        with os.fdopen(reads) as told:
            said = max([said, *(int(line) for line in told)])
        between += path.with_name("last.ckpt.part").exists()
        try:
            found = checkpoint_files.read(path)
            weights = found["state_dict"]["weights"]
            newest = found["global_step"]
            torn += not bool((weights == newest).all())
            lost += newest < said
        except Exception as error:
            print(f"  {error}", file=sys.stderr)
            torn += 1
    row = Row(
        "writing",
        f"a checkpoint of 1 MB on a slow disk, {newest + 1} times",
        f"killed {settings.writes} times, {between} of them in the middle of the file",
        f"{torn} damaged, {lost} lost",
        not torn and not lost,
    )
    settings.tell(row)
    return [row]
