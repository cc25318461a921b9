"""Start a real SLURM of two nodes on this machine, which only root can do."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.conftest import ROOT

MISSING = [program for program in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if not shutil.which(program)]
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=ALL Default=YES
FirstJobId={ports[0]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2
"""


def wait(condition: Callable[[], bool], explain: Callable[[], str], seconds: float = 150) -> None:
    """Wait for a condition; fail if it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, explain()
        time.sleep(0.1)


class Cluster:
    """A running SLURM, with the environment for its commands and jobs."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def call(self, *command: str) -> str:
        """Run a command, and return its output."""
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout.strip()

    def submit(self, folder: Path, script: str, *options: str) -> "Job":
        """Submit a job script that runs in a folder."""
        folder.mkdir(exist_ok=True)
        (folder / "job").write_text(f"#!/bin/bash\n{script}\n")
        submit = ["sbatch", "--parsable", "--open-mode=append", f"--output={folder}/log", f"--chdir={folder}"]
        return Job(self, self.call(*submit, *options, f"{folder}/job"), folder / "log")


class Job:
    """A submitted job."""

    def __init__(self, cluster: Cluster, number: str, log: Path) -> None:
        self.cluster, self.number, self.log = cluster, number, log

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text() if self.log.exists() else ""

    def field(self, name: str) -> str:
        """Return a field of `scontrol show job`."""
        shown = self.cluster.call("scontrol", "--oneliner", "show", "job", self.number)
        return dict(field.partition("=")[::2] for field in shown.split())[name]

    def signal(self, *options: str) -> None:
        """Send SIGUSR1, as `sbatch --signal` does."""
        self.cluster.call("scancel", "--signal=USR1", *options, self.number)

    def wait(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text."""
        wait(lambda: self.output.count(text) >= times, lambda: self.output)

    def end(self) -> str:
        """Wait for its end, and return its final state."""
        active = ("PENDING", "RUNNING", "COMPLETING")
        wait(lambda: self.field("JobState") not in active, lambda: self.output)
        return self.field("JobState")


@contextmanager
def start(folder: Path) -> Iterator[Cluster]:
    """Start a SLURM with the nodes n1 and n2, and end it after the block."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [one.getsockname()[1] for one in free]
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(host=host, ports=ports, folder=folder))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    env = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env["MASTER_ADDR"] = "127.0.0.1"  # n1 is not a name that this machine resolves
    munged = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    log = folder / "daemons"
    with ExitStack() as stack, open(log, "w") as out:
        for daemon in (
            ["munged", "--foreground", "--force", *(f"--{name}={folder}/{file}" for name, file in munged.items())],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "n1"],
            ["slurmd", "-D", "-N", "n2"],
        ):
            process = subprocess.Popen(daemon, env=env, stdout=out, stderr=out)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        cluster = Cluster(env)
        wait(lambda: cluster.call("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", log.read_text, 30)
        yield cluster
        cluster.call("scancel", "--user=root")
        wait(lambda: not cluster.call("squeue", "-h"), log.read_text, 30)
