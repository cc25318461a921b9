"""What torchrun's processes share while it restarts them; tests/test_torchrun.py runs the real one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from cifar_lit.training.torchrun import agree_on_name, record_run, restarted_run, store_of_attempt
from cifar_lit.utils.errors import UsageError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[TCPStore]:
    """The store of a torchrun that has started this process."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    yield store


def test_restarted_processes_resume_their_run(store: TCPStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert restarted_run() is None
    record_run(tmp_path)
    assert restarted_run() == tmp_path
    record_run(tmp_path / "on another machine")
    with pytest.raises(UsageError, match="all machines need the same folder"):
        restarted_run()
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")  # another launch
    assert restarted_run() is None and store_of_attempt(0, 2, timedelta(seconds=9)) is None


def test_processes_agree_on_a_new_name_in_spite_of_requests_of_dead_ones(store: TCPStore) -> None:
    for rank in ("1", "2"):
        store.set(f"cifar_lit/request/{rank}", "dead")
    with ThreadPoolExecutor(3) as threads:
        names = []
        for _ in range(2):
            attempt = [
                threads.submit(agree_on_name, TCPStore("localhost", store.port, is_master=False), rank, 3)
                for rank in (2, 1, 0)
            ]
            agreed = {future.result(20) for future in attempt}
            assert len(agreed) == 1
            names += agreed
    assert names[0] != names[1]
