"""The overhead of Lightning and of this project in each training step: a tiny network on one thread."""

import time
from collections.abc import Callable, Iterator

import torch
from harness import ROOT, Row, Settings, Times, alternate, quiet, slower_by
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from cifar_lit.cli.options import FitCLI
from cifar_lit.data.dataset import Batch


class TinyNet(nn.Sequential):
    """One linear layer from 8x8 images to ten classes."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(images.float())
        return logits


class RepeatedBatch:
    """A data loader that yields one batch `count` times."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.count)


class Finished(Exception):
    """Ends a training whose time has been measured."""


class Stopwatch:
    """Measures the time from step `first` to step `last`, both counted from 0."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.step = 0
        self.start = 0.0
        self.seconds = 0.0

    def tick(self) -> None:
        if self.step == self.first:
            self.start = time.perf_counter()
        if self.step == self.last:
            self.seconds = time.perf_counter() - self.start
            raise Finished
        self.step += 1

    def measure(self, train: Callable[[], None]) -> float:
        """Return the seconds that the steps took."""
        try:
            train()
        except Finished:
            return self.seconds
        raise AssertionError("the training has too few steps")


class TutorialModule(LightningModule):
    """A module as in Lightning's tutorials, with logged loss and torchmetrics accuracy."""

    def __init__(self, stopwatch: Stopwatch, logs: bool) -> None:
        super().__init__()
        self.net, self.stopwatch, self.logs = TinyNet(), stopwatch, logs
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.stopwatch.tick()
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
    batch = Batch(
        torch.randint(0, 256, (32, 8, 8, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (32,), generator=generator),
        torch.arange(32),
    )
    batches = RepeatedBatch(batch, last + 2)

    def raw() -> float:
        net, stopwatch = TinyNet(), Stopwatch(first, last)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

        def train() -> None:
            for batch in batches:
                stopwatch.tick()
                loss = cross_entropy(net(batch.images), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return stopwatch.measure(train)

    def lightning(barebones: bool) -> float:
        stopwatch = Stopwatch(first, last)
        options = {"barebones": True} if barebones else {"logger": False, "enable_checkpointing": False}
        with quiet():
            trainer = Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **options)
            module = TutorialModule(stopwatch, logs=not barebones)
            return stopwatch.measure(lambda: trainer.fit(module, batches))

    def ours() -> float:
        stopwatch = Stopwatch(first, last)
        with quiet():
            cli = FitCLI(
                [
                    *("--config", str(ROOT / "configs" / "onecycle.yaml")),
                    *("--data.source", "digits", "--data.image_size", "8", "--data.val_size", "200"),
                    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "true"),
                    *("--trainer.precision", "32-true", "--trainer.accelerator", "cpu"),
                    *("--trainer.default_root_dir", str(settings.scratch)),
                ]
            )
            cli.model.net = TinyNet()
            cli.datamodule.train_dataloader = lambda: batches
            training_step = cli.model.training_step

            def timed_step(batch: Batch, batch_idx: int) -> torch.Tensor:
                stopwatch.tick()
                return training_step(batch, batch_idx)

            cli.model.training_step = timed_step
            return stopwatch.measure(cli.fit)

    times = alternate(
        0 if settings.quick else 3,
        raw=raw,
        barebones=lambda: lightning(barebones=True),
        tutorial=lambda: lightning(barebones=False),
        ours=ours,
    )
    torch.set_num_threads(threads)

    def row(what: str, ours: Times, must: float | None = None, aim: float | None = None) -> Row:
        return slower_by("loop", what, ours, times["raw"], "raw loop", must, aim, last - first)

    return [
        row("ours: loss, accuracy, logging, progress bar, all callbacks", times["ours"], 0.5, 0.35),
        row("Lightning's barebones mode", times["barebones"]),
        row("usual module: logged loss, torchmetrics accuracy", times["tutorial"]),
    ]
