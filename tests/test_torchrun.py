"""A real torchrun: it restarts processes, or dies itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fork_server
import pytest
from comparison import BLANK, SMALL, fingerprint, run_folder

from tests.conftest import ROOT
from tests.training.test_distributed import children, listening

ARGS = [*SMALL, "--data.num_workers=0", "--trainer.max_epochs=5", "--trainer.limit_train_batches=4", "--samples.k=1"]
TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2"]


def wait(condition: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Return whether a process runs; nobody may wait for an orphan after its end."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_restarted_and_orphaned_processes_lose_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log, "w") as out:
        agent = subprocess.Popen(
            [*command, "-m", "cifar_lit.fit", *ARGS, *TWO], cwd=tmp_path, env=env, stdout=out, stderr=out
        )
    workers: list[int] = []
    try:
        wait(lambda: bool(list(tmp_path.rglob("last.ckpt"))), log)
        os.kill(children(agent.pid)[1], signal.SIGKILL)
        wait(lambda: "resuming lightning_logs" in log.read_text(), log)
        epochs = log.read_text().count("train loss")
        wait(lambda: log.read_text().count("train loss") > epochs, log)
        workers = children(agent.pid)
        assert listening(workers) == {"0100007F"}  # 127.0.0.1
        agent.kill()
        wait(lambda: not any(alive(pid) for pid in workers), log)
        assert "stopped by SIGTERM; saved in" in log.read_text()
    finally:
        agent.kill()
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)
    resumed = fork_server.run([*ARGS, "--ckpt_path=auto"], tmp_path, processes=2, before=BLANK)
    assert resumed.wait(200) == 0, resumed.output
    undisturbed = fork_server.run(ARGS, tmp_path / "undisturbed", processes=2, before=BLANK)
    assert undisturbed.wait(200) == 0, undisturbed.output
    assert fingerprint(run_folder(tmp_path)) == fingerprint(run_folder(tmp_path / "undisturbed"))
