"""Each workaround is still needed; if one of these tests fails, upstream has changed."""

import copy
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import _paths
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.distributed import TCPStore, rendezvous
from torch.utils.data import DataLoader, TensorDataset

from cifar_lit.training import compat
from cifar_lit.training.run import Start


class Loader(DataLoader[Any]):
    """Two batches; records the current epoch whenever an iterator is created."""

    def __init__(self, epoch: Callable[[], int]) -> None:
        super().__init__(TensorDataset(torch.ones(4, 1)), batch_size=2)
        self.epoch, self.created_in = epoch, []

    def __iter__(self) -> Iterator[Any]:
        self.created_in.append(self.epoch())
        return super().__iter__()


class Line(LightningModule):
    """The smallest model; records the epoch and the batch index of each step."""

    def __init__(self, val_loaders: Any = None) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, int]] = []
        self.loader = Loader(lambda: self.current_epoch)
        self.val_loaders = val_loaders

    def train_dataloader(self) -> Loader:
        return self.loader

    def val_dataloader(self) -> Any:
        return self.val_loaders

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch_idx))
        return self.line(batch[0]).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Save(Checkpoint):
    """Saves a checkpoint at the end of each epoch, or after each step."""

    def __init__(self, file: Path, steps: bool = False) -> None:
        self.file, self.steps = file, steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.steps:
            trainer.save_checkpoint(self.file, weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.steps:
            trainer.save_checkpoint(self.file, weights_only=False)


def trainer(*callbacks: Checkpoint, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(callbacks=list(callbacks), **{"limit_val_batches": 0, **quiet, **options})


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """The checkpoint of a training of one epoch, two steps."""
    trainer(Save(tmp_path / "a.ckpt"), max_steps=2).fit(Line())
    return str(tmp_path / "a.ckpt")


def resumed(checkpoint: str, workaround: bool, **options: Any) -> tuple[Line, Trainer]:
    module, resuming = Line(), trainer(**options, enable_checkpointing=False)
    if workaround:
        compat.count_epochs_when_resuming(resuming)
    resuming.fit(module, ckpt_path=checkpoint, weights_only=True)
    return module, resuming


def test_lightning_repeats_an_epoch_when_resuming_with_max_steps(checkpoint: str) -> None:
    assert resumed(checkpoint, workaround=False, max_steps=4)[0].seen == [(0, 2), (1, 0)]
    assert resumed(checkpoint, workaround=True, max_steps=4)[0].seen == [(1, 0), (1, 1)]


def test_current_epoch_is_too_small_after_resuming_a_finished_training(checkpoint: str) -> None:
    _, finished = resumed(checkpoint, workaround=True, max_steps=2)
    assert finished.current_epoch == 0 and compat.epochs_finished(finished) == 1


def test_checkpoint_contains_the_number_of_finished_epochs(checkpoint: str, tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    Path(checkpoint).rename(last)
    assert Start(tmp_path).epochs == 1


def test_lightning_creates_the_first_iterator_before_it_restores_the_progress(checkpoint: str) -> None:
    module, _ = resumed(checkpoint, workaround=True, max_steps=4)
    assert module.loader.created_in[0] == 0 and module.seen[0] == (1, 0)


def test_irrelevant_warnings_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)  # Lightning then advises more workers
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    saver = Save(tmp_path / "a.ckpt", steps=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")  # good advice
        compat.hide_warnings()
        trainer(saver, max_steps=1, limit_val_batches=1, logger=CSVLogger(tmp_path)).fit(Line(Loader(int)))
        resuming = trainer(max_steps=2, limit_val_batches=1, enable_checkpointing=False)
        resuming.fit(Line([]), ckpt_path=saver.file, weights_only=True)
        assert CSVLogger(tmp_path, "", "").experiment  # of an earlier run's folder
    assert warnings.formatwarning("be careful", UserWarning, "/venv/site-packages/a.py", 7) == "warning: be careful\n"


class RaiseSigterm(Checkpoint):
    """Sends SIGTERM to this process after each step."""

    def on_train_batch_end(self, *_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_lightning_sets_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: received.append(signum))
    try:
        with pytest.raises(SIGTERMException):
            trainer(RaiseSigterm(), max_steps=2).fit(Line())
        received.clear()
        ours = trainer(RaiseSigterm(), max_steps=2)
        compat.keep_signal_handlers(ours)
        ours.fit(Line())
        assert len(received) == ours.global_step == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_lightning_loads_checkpoints_that_are_not_given(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(checkpoint).rename(tmp_path / "hpc_ckpt_1.ckpt")
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "a", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NODEID", "0")
    for fixed, steps in ((False, 2), (True, 4)):
        module, ours = Line(), trainer(max_steps=4, enable_checkpointing=False, default_root_dir=tmp_path)
        if fixed:
            compat.load_no_other_checkpoint(ours)
        ours.fit(module, weights_only=True)
        assert len(module.seen) == steps


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_tcp_store_listens_on_all_interfaces() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    addresses = {line[1].split(":")[0] for line in lines if line[1].endswith(f":{store.port:04X}") and line[3] == "0A"}
    assert addresses and all(set(address) == {"0"} for address in addresses)


def test_torchrun_restarts_processes_in_a_store_with_the_keys_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    store.set("before", "the restart")
    env = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "RANK": "1", "WORLD_SIZE": "2"}
    env |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "1"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert next(rendezvous("env://"))[0].check(["before"])


def test_copy_has_no_hooks_because_those_of_a_profiler_cannot_be_copied() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    lock = threading.Lock()  # as little to be copied as what PyTorchProfiler keeps
    handles = [net[0].register_forward_hook(partial(print, lock)), net.register_forward_pre_hook(partial(print, lock))]
    with pytest.raises(TypeError):
        copy.deepcopy(net)
    copied = compat.copy_without_hooks(net)
    assert not copied[0]._forward_hooks and len(net[0]._forward_hooks) == 1
    for handle in handles:
        handle.remove()
    assert torch.equal(copied(torch.ones(2)), net(torch.ones(2))) and copied[0].weight is not net[0].weight


def test_help_of_an_option_is_replaced() -> None:
    parser = LightningArgumentParser()
    parser.add_argument("--config", help="a file")
    compat.set_help(parser, "config", "a recipe by name")
    assert "a recipe by name" in parser.format_help()


def test_recipes_are_read_as_utf8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.RecipePath, "read_text", compat.READ_TEXT)
    monkeypatch.setattr(_paths, "open", partial(open, encoding="cp1252"), raising=False)  # as on Windows
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("root: grün\n", encoding="utf-8")
    parser = LightningArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--root", type=str)
    assert parser.parse_args([f"--config={recipe}"]).root == "grÃ¼n"
    compat.configure_jsonargparse()
    assert parser.parse_args([f"--config={recipe}"]).root == "grün"
