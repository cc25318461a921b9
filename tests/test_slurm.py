"""Jobs on a real SLURM of two nodes, started for these tests."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import fork_server
import pytest
from comparison import BLANK, SMALL, fingerprint, run_folder
from filelock import FileLock

from tests.slurm import MISSING, Cluster, start
from tests.training.test_distributed import listening

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can start SLURM"),
]
ARGS = [*SMALL, "--trainer.accelerator", "cpu", "--data.num_workers", "1"]
FIT = " ".join([sys.executable, "-m", "cifar_lit.fit", *ARGS])
TWO_NODES = f"srun --kill-on-bad-exit=1 {FIT} --trainer.num_nodes 2"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with start(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def test_job_on_two_nodes_ends_as_if_it_had_not_been_requeued(cluster: Cluster, tmp_path: Path) -> None:
    two_nodes = ["--nodes=2", "--ntasks=2"]  # without --ntasks-per-node
    (tmp_path / "requeued").mkdir()
    (tmp_path / "requeued" / "hpc_ckpt_1.ckpt").write_text("Lightning would load this")
    requeued = cluster.submit(tmp_path / "requeued", TWO_NODES, *two_nodes)
    requeued.wait("training: 3 epochs")
    requeued.signal()
    requeued.wait("requeued the SLURM job")
    undisturbed = fork_server.run(ARGS, tmp_path / "undisturbed", processes=2, before=BLANK, machines=True)
    assert requeued.end() == "COMPLETED", requeued.output
    assert requeued.output.count("stopped by") == 1 and requeued.field("Restarts") == "1"
    assert "saved in" not in requeued.output and "Traceback" not in requeued.output
    assert undisturbed.wait(200) == 0, undisturbed.output
    assert fingerprint(run_folder(tmp_path / "requeued")) == fingerprint(run_folder(tmp_path / "undisturbed"))


def test_job_without_srun_is_requeued_from_the_start_on(cluster: Cluster, tmp_path: Path) -> None:
    # Signals itself when Python handles SIGUSR1, long before it has imported torch.
    ready = "! kill -0 $$ || grep -q 'SigCgt:.*[2367abef]..$' /proc/$$/status"
    send = "until scancel --batch --signal=USR1 $SLURM_JOB_ID; do sleep 0.1; done"  # refused where SLURM is slow
    early = f"(until {ready}; do sleep 0.01; done; {send}) &"
    job = cluster.submit(tmp_path, f'[ "$SLURM_RESTART_COUNT" ] || {early}\nexec {FIT}')
    job.wait("stopped by SIGUSR1; requeued the SLURM job")
    assert not list(tmp_path.glob("lightning_logs"))
    job.wait("training: 3 epochs")
    job.signal("--batch")
    job.wait("requeued the SLURM job", times=2)
    with FileLock(run_folder(tmp_path) / ".lock"):  # as if a process on a failed node still trained
        job.wait("waiting up to 600 s for another process")
    job.wait("epoch 1/3")
    assert "Traceback" not in job.output, job.output
    cluster.call("scancel", job.number)


def test_refused_requeue_says_why_and_how_to_resume(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, f"srun --ntasks=1 --exact {FIT}", "--ntasks=2", "--no-requeue")
    job.wait("training: 3 epochs")
    job.signal()
    assert job.end() == "FAILED" and job.field("ExitCode") == "138:0"
    (message,) = re.findall(r"stopped by SIGUSR1.*", job.output, re.DOTALL)
    assert re.match(r"stopped by SIGUSR1; SLURM did not requeue the job \(\w.*\); saved in .*last.ckpt; ", message)
    assert f"resume with\nsrun --nodes 1 --ntasks 1 {sys.executable} -m cifar_lit.fit --ckpt_path light" in message


def test_srun_is_needed_and_processes_must_be_those_of_the_trainer_and_listen_on_localhost(
    cluster: Cluster, tmp_path: Path
) -> None:
    commands = [f"{FIT} --trainer.devices 2", f"srun {FIT} --trainer.devices 1", f"srun {FIT} --trainer.devices 2"]
    job = cluster.submit(tmp_path, "\necho code $?\n".join(commands), "--nodes=1", "--ntasks=2")
    job.wait("code 2", times=2)
    assert "put srun before the command" in job.output
    assert "srun has started 2 processes on 1 machine" in job.output and "use --trainer.devices 2" in job.output
    assert not list(tmp_path.glob("lightning_logs"))
    job.wait("training: 3 epochs")
    pids = map(int, cluster.call("pgrep", "-f", f"^{sys.executable} -m cifar_lit.fit").split())
    in_job = f"SLURM_JOB_ID={job.number}\0"
    training = [pid for pid in pids if in_job in Path(f"/proc/{pid}/environ").read_text()]
    assert len(training) >= 2 and listening(training) == {"0100007F"}  # 127.0.0.1
