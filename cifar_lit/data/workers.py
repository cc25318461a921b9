"""The worker processes of a data loader."""

import signal
import warnings

from cifar_lit.utils.hardware import free_shared_memory
from cifar_lit.utils.output import first_process

PREFETCH_FACTOR = 2  # batches of each worker in shared memory: the default of torch's DataLoader
IN_USE = 2  # batches in shared memory that the training has already: the current and the next one


def fitting_workers(option: str, workers: int, batch_bytes: int, processes: int = 1) -> int:
    """Return how many of the workers can be used without filling the shared memory, which would lose batches.

    Args:
        option: Name of the option for the warning.
        workers: Of each training process.
        batch_bytes: Size of a batch.
        processes: Training processes on this machine.
    """
    free = free_shared_memory()
    if free is None or not workers:
        return workers
    fitting = min(workers, max(0, free // processes // batch_bytes - IN_USE) // PREFETCH_FACTOR)
    if fitting < workers and first_process():
        warnings.warn(
            f"{fitting} worker processes instead of {workers} ({option}): the batches of more do not fit into "
            f"/dev/shm, of which {free / 2**20:.0f} MiB are free; enlarge it (docker run --shm-size 1g)",
            stacklevel=2,
        )
    return fitting


def worker_failure(error: RuntimeError) -> str | None:
    """Return the message for an error of torch about a worker that died or did not answer; None for other errors."""
    text = " ".join(str(error).split())
    if "DataLoader timed out" in text:
        problem = "the data loader workers do not answer (process_timeout)"
    elif "DataLoader worker" in text:
        problem = f"a data loader worker has died ({text[:200]})"
    else:
        return None
    return f"{problem}, perhaps for lack of memory or of shared memory (/dev/shm); reduce data.num_workers, 0 uses none"


def ignore_signals(worker_id: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker: they reach its process group too, but its batches are still needed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
