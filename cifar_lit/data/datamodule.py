"""The LightningDataModule: from a source to the loaders of training, validation and test."""

import os
from dataclasses import fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader, DistributedSampler

from cifar_lit.analysis import predictions
from cifar_lit.data.augment.config import AugmentOptions, FlipMode, PaddingMode
from cifar_lit.data.augment.device import DeviceAugmentation, pack
from cifar_lit.data.dataset import Batch, DataSplits, ImageDataset, Key
from cifar_lit.data.loaders import DeviceLoader, LazyDataLoader, as_is
from cifar_lit.data.sampling import EvalSampler, TrainSampler, stratified_split
from cifar_lit.data.sources import Source, load
from cifar_lit.training.signals import ignore_signals
from cifar_lit.utils.errors import RunError, UsageError
from cifar_lit.utils.hardware import available_cores

AugmentOn = Literal["auto", "workers", "device"]


class ImageDataModule(LightningDataModule):
    """Images for training, validation and test.

    Args:
        source: `cifar10` and `cifar100` (downloaded once), `folder` (your own images, see root) or `digits`
            (scikit-learn's handwritten digits, built in).
        root: Where the images are. cifar10, cifar100: the folder to download into. folder: the folder that
            holds `train/<class>/*` and `test/<class>/*` (or `val`, or `valid`).
        image_size: Height and width in pixels that the network sees, 8 to 4096; other images are resized.
        val_size: Training images held out for validation, class by class in proportion, 0 or more. 0 trains on
            everything and keeps the last weights.
        train_eval_size: Training images that are looked at once more at the end, not augmented, to compare with the
            test set; drawn class by class in proportion, 1 or more.
        batch_size: Images a training step in each process, 1 to 1,000,000.
        augment_on: `workers` augments in other processes, with albumentations; `device` holds the training images on
            the device and augments whole batches there, in the same way; `auto` takes the device if that is a CUDA GPU
            with room for the images in half of its free memory, and workers elsewhere.
        num_workers: Processes that prepare batches, 0 to 256; 0 does it in the training process. Default: the cores
            that this process may use, shared among the training processes of this machine, at most 8.
        crop_padding: Pixels added on each side before cropping back at random, 0 to image_size; 0 turns it off.
        padding_mode: What is added there: `constant`, black pixels, or `reflect`, the image mirrored at its border.
        flip: Probability of a horizontal flip, 0 to 1; 0 turns it off.
        flip_mode: `random` decides anew for each image and epoch; `alternate` decides for the first epoch, and from
            then on each image is flipped in every other epoch (arXiv 2404.00498).
        rotate_degrees: Largest angle of the random rotation in either direction, 0 to 180; 0 turns it off.
        cutout_size: Side of the square that is blanked out, in pixels, 0 to twice image_size; 0 turns it off.
        cutout_warmup_epochs: Epochs in which that square grows, from nothing in the first one to its size, 0 or more
            (progressive regularisation, arXiv 2104.00298); 0 gives it its size from the beginning.
        mirrors: Other addresses (http, https, file) of the data set's archive, or of a folder with it if they end in
            `/`, tried in turn before the original.
        cache_dir: Where decoded folders are kept for the next run.
        seed: Seed of the held-out selection, the order and the augmentation. Default: that of seed_everything.
    """

    def __init__(
        self,
        source: Source = "cifar10",
        root: str = "data",
        image_size: int = 32,
        val_size: int = 5000,
        train_eval_size: int = 2000,
        batch_size: int = 512,
        augment_on: AugmentOn = "auto",
        num_workers: int | None = None,
        crop_padding: int = 4,
        padding_mode: PaddingMode = "constant",
        flip: float = 0.5,
        flip_mode: FlipMode = "random",
        rotate_degrees: float = 5.0,
        cutout_size: int = 16,
        cutout_warmup_epochs: int = 0,
        mirrors: list[str] | None = None,
        cache_dir: str = "data/cache",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        ranges = {
            "image_size": ("8 to 4096", 8 <= image_size <= 4096),
            "val_size": ("0 or more", val_size >= 0),
            "train_eval_size": ("1 or more", train_eval_size >= 1),
            "batch_size": ("1 to 1,000,000", 1 <= batch_size <= 1_000_000),
            "num_workers": ("0 to 256", num_workers is None or 0 <= num_workers <= 256),
            "crop_padding": (f"0 to image_size, {image_size}", 0 <= crop_padding <= image_size),
            "padding_mode": (
                f"black where crop_padding is image_size, {image_size}",
                padding_mode == "constant" or crop_padding < image_size,
            ),
            "flip": ("between 0 and 1", 0 <= flip <= 1),
            "flip_mode": ("random where flip is 0", flip_mode == "random" or flip > 0),
            "rotate_degrees": ("between 0 and 180", 0 <= rotate_degrees <= 180),
            "cutout_size": (f"0 to twice image_size, {2 * image_size}", 0 <= cutout_size <= 2 * image_size),
            "cutout_warmup_epochs": (
                "0 or more, and 0 where cutout_size is 0",
                cutout_warmup_epochs >= 0 and (cutout_size > 0 or cutout_warmup_epochs == 0),
            ),
            "seed": (f"0 to {2**32 - 1}", seed is None or 0 <= seed < 2**32),
        }
        given = locals()
        for option, (allowed, ok) in ranges.items():
            if not ok:
                raise UsageError(f"data.{option} must be {allowed}, got {given[option]}")
        self.source: Source = source
        self.root = root
        self.image_size = image_size
        self.val_size = val_size
        self.train_eval_size = train_eval_size
        self.batch_size = batch_size
        self.augment_on: AugmentOn = augment_on
        self._on_device: bool | None = None  # what the training does, once it began
        self.num_workers = num_workers
        self.crop_padding = crop_padding
        self.padding_mode: PaddingMode = padding_mode
        self.flip = flip
        self.flip_mode: FlipMode = flip_mode
        self.rotate_degrees = rotate_degrees
        self.cutout_size = cutout_size
        self.cutout_warmup_epochs = cutout_warmup_epochs
        self.mirrors = mirrors or []
        self.cache_dir = cache_dir
        # Lightning's own convention: seed_everything leaves its seed here for everything that comes later.
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed

    @cached_property
    def splits(self) -> DataSplits:
        """The data set, loaded (and downloaded or decoded, once among all processes) at first use."""
        return load(
            self.source,
            root=self.root,
            image_size=self.image_size,
            mirrors=self.mirrors,
            cache_dir=self.cache_dir,
            num_workers=self._workers(),
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.splits.classes)

    @property
    def mean(self) -> tuple[float, float, float]:
        """Channel means of the training images, in 0..1."""
        return self.splits.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Channel standard deviations of the training images, in 0..1."""
        return self.splits.std

    @cached_property
    def _selection(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the images to train on and of those held out."""
        labels = self.splits.train.labels
        if self.val_size >= len(labels):
            raise UsageError(
                f"data.val_size={self.val_size} leaves nothing to train on: {self.source} has {len(labels)} "
                f"training images; give a smaller one (--data.val_size {len(labels) // 10}, say)"
            )
        return stratified_split(labels, self.val_size, self.seed)

    @cached_property
    def train_dataset(self) -> ImageDataset:
        """The images to train on, augmented."""
        from cifar_lit.data.augment.cpu import Augmentation

        return ImageDataset(self.splits.train, self._selection[0], Augmentation(self._augment_options()), self.seed)

    def _augment_options(self) -> AugmentOptions:
        names = [field.name for field in fields(AugmentOptions)]
        return AugmentOptions(**{name: getattr(self, name) for name in names})

    @cached_property
    def val_dataset(self) -> ImageDataset:
        """The held-out images, as they are."""
        # Mixed, so that trainer.limit_val_batches takes some of every class.
        mixed = np.random.default_rng(self.seed).permutation(self._selection[1])
        return ImageDataset(self.splits.train, mixed)

    @cached_property
    def test_dataset(self) -> ImageDataset:
        """The test images, as they are."""
        return ImageDataset(self.splits.test, np.arange(len(self.splits.test)))

    def prepare_data(self) -> None:
        """Load in the first process of each machine before the others do."""
        _ = self.splits

    def state_dict(self) -> dict[str, Any]:
        """Go into the checkpoint: what the network was trained for, and on which images."""
        return {
            "classes": list(self.splits.classes),
            "image_size": self.image_size,
            "on_device": self._on_device,
            "train": self.splits.train.fingerprint,
            "test": self.splits.test.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as the training began: the other way would augment with other random numbers."""
        self._on_device = state_dict.get("on_device")

    def setup(self, stage: str) -> None:
        """Fail early where the data cannot be used."""
        _ = self._selection

    def train_dataloader(self) -> LazyDataLoader | DeviceLoader:
        """Return batches of augmented training images, in a new order each epoch."""
        dataset = self.train_dataset
        sampler = TrainSampler(dataset, self.seed, self._progress, self.batch_size, *self._place())
        # BatchNorm cannot learn from a single image: a last batch of one is left out.
        drop_last = len(sampler) > self.batch_size > 1 == len(sampler) % self.batch_size
        device = self._device()
        self._on_device = self._augments_on_device()
        if not self._on_device:
            workers = self._workers()
            rank_zero_info(f"augmentation in worker processes: {workers} (data.augment_on, data.num_workers)")
            return self._loader(dataset, sampler, self.batch_size, workers, drop_last)
        rank_zero_info(f"augmentation on {device}, without worker processes (data.augment_on)")
        try:
            return DeviceLoader(dataset, sampler, self._device_augmentation, self.batch_size, drop_last, device)
        except torch.OutOfMemoryError:
            raise RunError(
                f"data.augment_on=device: {len(dataset)} images do not fit into the memory of {device}; give "
                "--data.augment_on workers"
            ) from None

    def samples(self, positions: NDArray[np.int64]) -> Batch:
        """Return training images as the network sees them in its first epoch, by their positions in train_dataset."""
        dataset = self.train_dataset
        if not (self._on_device or self.augment_on == "device"):
            return dataset.fetch(positions)
        batch = ImageDataset(dataset.split, dataset.indices).fetch(positions)  # as they are
        draws = self._device_augmentation.draw(self.seed, 0, len(dataset))[positions]
        return batch._replace(images=self._device_augmentation(pack(batch.images), torch.from_numpy(draws), 0))

    @cached_property
    def _device_augmentation(self) -> DeviceAugmentation:
        return DeviceAugmentation(self._augment_options())

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _augments_on_device(self) -> bool:
        device = self._device()
        if self.augment_on != "auto":
            return self.augment_on == "device"
        if self._on_device is not None:  # later the memory is no longer as free
            return self._on_device
        if device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(device)
        room = len(self.train_dataset) * self.image_size**2 * 4 < free / 2  # bytes of the words
        return self.trainer.strategy.broadcast(room) if self.trainer else room

    def _workers(self) -> int:
        """Return the number of worker processes of this process."""
        if self.num_workers is not None:
            return self.num_workers
        return max(1, min(8, available_cores() // (self.trainer.num_devices if self.trainer else 1)))

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return batches of held-out images; an empty list if there are none."""
        if not self.val_size:
            return []
        _, world_size = self._place()
        if self.val_size < world_size:
            raise UsageError(f"data.val_size={self.val_size} is less than the number of processes, {world_size}")
        return self._eval_loader(self.val_dataset)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return batches of test images, in order."""
        return self._eval_loader(self.test_dataset)

    def _eval_loader(self, dataset: ImageDataset) -> DataLoader[Batch]:
        # Slicing an array is all there is to do: no workers. Nothing is learnt either, so a training batch of 4
        # need not slow the evaluation down.
        rank, world_size = self._place()
        batch_size = max(self.batch_size, predictions.batch_size(self.image_size))
        while len(dataset) % world_size and len(dataset) // world_size % batch_size == 0:
            batch_size += 1  # or some processes had a batch more than others, who would wait for each other for ever
        return self._loader(dataset, EvalSampler(dataset, rank, world_size), batch_size)

    def _loader(
        self,
        dataset: ImageDataset,
        sampler: DistributedSampler[Key],
        batch_size: int,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> LazyDataLoader:
        return LazyDataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            drop_last=drop_last,
            collate_fn=as_is,
            pin_memory=self._device().type == "cuda",
            persistent_workers=num_workers > 0,
            worker_init_fn=ignore_signals,
        )

    def _progress(self) -> tuple[int, int]:
        """Return the epoch, and how many of its batches are done."""
        if not self.trainer:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
