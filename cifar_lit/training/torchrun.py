"""The store that torchrun keeps while it restarts its processes: for the run to resume, and their next rendezvous."""

import os
import time
import uuid
from datetime import timedelta
from pathlib import Path

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # documented, but not exported

from cifar_lit.utils.errors import UsageError

RUN, REQUEST, ANSWER = "cifar_lit/run", "cifar_lit/request/", "cifar_lit/answer/"  # keys
SAME_FOLDER = "all machines need the same folder lightning_logs (trainer.default_root_dir)"


def record_run(run: Path) -> None:
    """Let the processes that torchrun restarts resume this run."""
    if store := _shared_store():
        store.set(RUN, str(run))


def restarted_run() -> Path | None:
    """Return the run that torchrun's processes were training before it restarted them; None at first.

    Raises:
        UsageError: The run is not on this machine.
    """
    store = _shared_store()
    if not store or not store.check([RUN]):
        return None
    run = Path(store.get(RUN).decode())
    if not run.is_dir():
        raise UsageError(f"{run}, which the restarted processes must resume, is not on this machine; {SAME_FOLDER}")
    return run


def store_of_attempt(rank: int, world_size: int, timeout: timedelta) -> Store | None:
    """Return a store without the addresses of processes that torchrun has replaced; None without torchrun's store.

    Args:
        rank: Rank of this process.
        world_size: Number of processes.
        timeout: How long to wait for another one.
    """
    store = _shared_store(timeout)
    return PrefixStore(agree_on_name(store, rank, world_size), store) if store else None


def agree_on_name(store: Store, rank: int, world_size: int) -> str:
    """Return a new name, the same in all processes. TORCHELASTIC_RESTART_COUNT may differ between machines.

    Args:
        store: It may contain requests of dead processes.
        rank: Rank of this process.
        world_size: Number of processes.
    """
    name = uuid.uuid4().hex
    if rank:
        while not store.check([ANSWER + name]):
            store.set(f"{REQUEST}{rank}", name)  # again, because the first process deletes earlier requests
            time.sleep(0.1)
        return str(store.get(ANSWER + name).decode())
    requests = [f"{REQUEST}{other}" for other in range(1, world_size)]
    for request in requests:
        store.delete_key(request)
    for request in requests:
        store.set(ANSWER + store.get(request).decode(), name)
    return name


def _shared_store(timeout: timedelta = timedelta(seconds=60)) -> Store | None:
    """Return torchrun's store, the same on all machines; None if this process was started otherwise."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
