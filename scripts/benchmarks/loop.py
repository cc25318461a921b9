"""What Lightning and this project add to each training step: a tiny network on one thread."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from harness import Row, Settings, Times, alternate, quiet, slower_by
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from cifar_lit.cli.options import FitCLI
from cifar_lit.data.dataset import Batch


class Tiny(nn.Sequential):
    """Images of 8 px straight to ten classes."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(images.float())
        return logits


class Batches:
    """The same batch again and again; a list would be taken for a list of loaders."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.count)


class Enough(Exception):
    """Ends a training that has been measured."""


class Clock:
    """Measures the steps from `first` to `last`, both counted from 0."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.step = 0
        self.began = 0.0
        self.seconds = 0.0

    def tick(self) -> None:
        if self.step == self.first:
            self.began = time.perf_counter()
        if self.step == self.last:
            self.seconds = time.perf_counter() - self.began
            raise Enough
        self.step += 1


class Usual(LightningModule):
    """A module as in the tutorials: logged loss, torchmetrics accuracy."""

    def __init__(self, clock: Clock, logs: bool) -> None:
        super().__init__()
        self.net, self.clock, self.logs = Tiny(), clock, logs
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.clock.tick()
        logits = self.net(batch.images)
        loss = cross_entropy(logits, batch.labels)
        if self.logs:
            self.accuracy(logits, batch.labels)
            self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True)
            self.log("accuracy", self.accuracy, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


def measure(settings: Settings) -> list[Row]:
    """Train the same network on the same batches in each way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    first, last = (5, 25) if settings.quick else (100, 2100)
    generator = torch.Generator().manual_seed(0)
    one = Batch(
        torch.randint(0, 256, (32, 8, 8, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (32,), generator=generator),
        torch.arange(32),
    )
    batches = Batches(one, last + 2)

    def raw() -> float:
        net, clock = Tiny(), Clock(first, last)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
        try:
            for batch in batches:
                clock.tick()
                loss = cross_entropy(net(batch.images), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        except Enough:
            return clock.seconds
        raise AssertionError

    def lightning(barebones: bool) -> float:
        clock = Clock(first, last)
        options = {"barebones": True} if barebones else {"logger": False, "enable_checkpointing": False}
        with quiet():
            trainer = Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **options)
            return _fit(lambda: trainer.fit(Usual(clock, logs=not barebones), batches), clock)

    def ours() -> float:
        clock = Clock(first, last)
        here = os.getcwd()
        os.chdir(settings.scratch)
        try:
            with quiet():
                cli = FitCLI(
                    [
                        "--config",
                        str(Path(__file__).parents[2] / "configs" / "onecycle.yaml"),
                        *("--data.source", "digits", "--data.image_size", "8", "--data.val_size", "200"),
                        *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "true"),
                        *("--trainer.precision", "32-true", "--trainer.accelerator", "cpu"),
                    ]
                )
                cli.model.net = Tiny()
                cli.datamodule.train_dataloader = lambda: batches
                step = cli.model.training_step

                def timed(batch: Batch, batch_idx: int) -> torch.Tensor:
                    clock.tick()
                    return step(batch, batch_idx)

                cli.model.training_step = timed
                return _fit(cli.fit, clock)
        finally:
            os.chdir(here)

    times = alternate(
        0 if settings.quick else 3,
        raw=raw,
        barebones=lambda: lightning(True),
        usual=lambda: lightning(False),
        ours=ours,
    )
    torch.set_num_threads(threads)
    steps = last - first

    def row(what: str, which: Times, *goal: float) -> Row:
        must, aim = goal or (None, None)
        return slower_by("loop", what, which, times["raw"], "raw loop", must, aim, steps)

    return [
        row("ours: loss, accuracy, logging, progress bar, all callbacks", times["ours"], 0.5, 0.35),
        row("Lightning's barebones mode", times["barebones"]),
        row("usual module: logged loss, torchmetrics accuracy", times["usual"]),
    ]


def _fit(fit: Callable[[], None], clock: Clock) -> float:
    try:
        fit()
    except Enough:
        return clock.seconds
    raise AssertionError
