"""The LightningDataModule: from a data source to the loaders for training, validation and test."""

import os
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader, DistributedSampler

from cifar_lit.data.augment.config import AugmentConfig, check_option
from cifar_lit.data.augment.device import DeviceAugmentation, pack
from cifar_lit.data.dataset import Batch, Channels, DataSplits, ImageDataset, Key, at_least_min_std
from cifar_lit.data.loaders import DeviceLoader, LazyDataLoader, as_is, fits_on
from cifar_lit.data.sampling import EvalSampler, TrainSampler, train_val_split
from cifar_lit.data.sources import SourceOptions, load
from cifar_lit.data.workers import fitting_workers, ignore_signals
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.hardware import available_cores, eval_batch_size


class ImageDataModule(LightningDataModule):
    """Images for training, validation and test.

    Args:
        source: `cifar10`, `cifar100` (downloaded once), `folder` (your images, see root) or `digits` (scikit-learn's).
        root: Download folder; for `folder`, that of `train/CLASS/*` and `test/CLASS/*` (or `val`, `valid`).
        image_size: Height and width of the input in px, 8 to 4096; other images are resized.
        val_size: Training images held out for validation, stratified by class: their number, 0 or more, or a fraction
            such as 0.1. At least one image of each class is trained on. 0 trains on all images and keeps the last
            weights.
        train_eval_size: Training images, stratified by class, evaluated at the end without augmentation, to compare
            with the test images, 1 or more.
        batch_size: Batch size per process, 1 to 1,000,000.
        augment_on: `workers` augments in worker processes, with albumentations; `device` stores the training images on
            the device and augments entire batches there, with the same distribution; `auto` is `device` on a CUDA GPU
            if the images fit into half of its free memory, and `workers` otherwise.
        num_workers: Worker processes per training process, 0 to 256; 0 loads in that process. Default: its part of
            the cores, at most 8; fewer if their batches do not fit into /dev/shm.
        mirrors: URLs (http, https, file) of the archive, or, with a trailing `/`, of its folder, tried before the
            original.
        cache_dir: Folder for the caches of decoded image folders.
        process_timeout: Seconds to wait for the next batch of the workers before the training fails, 1 or more.
        seed: Seed of the validation split, the order and the augmentation. Default: that of seed_everything.
        **augment: The options of AugmentConfig.

    Attributes:
        test_only: Whether the training images are not used; set it before the first access to the images.
        network_classes: Those of a network to evaluate if `test_only`: the test images may lack some.
        download: Whether to download a data set that is not there; likewise.
    """

    def __init__(
        self,
        source: str = "cifar10",
        root: str = "data",
        image_size: int = 32,
        val_size: int | float = 5000,
        train_eval_size: int = 2000,
        batch_size: int = 512,
        augment_on: Literal["auto", "workers", "device"] = "auto",
        num_workers: int | None = None,
        mirrors: list[str] | None = None,
        cache_dir: str = "data/cache",
        process_timeout: int = 600,
        seed: int | None = None,
        **augment: Any,
    ) -> None:
        super().__init__()
        check_option("image_size", image_size, 8 <= image_size <= 4096, "8 to 4096")
        usable = val_size >= 0 and (isinstance(val_size, int) or val_size < 1)
        check_option("val_size", val_size, usable, "0 or more images, or a fraction below 1")
        check_option("train_eval_size", train_eval_size, train_eval_size >= 1, "1 or more")
        check_option("batch_size", batch_size, 1 <= batch_size <= 1_000_000, "1 to 1,000,000")
        check_option("num_workers", num_workers, num_workers is None or 0 <= num_workers <= 256, "0 to 256")
        check_option("seed", seed, seed is None or 0 <= seed < 2**32, f"0 to {2**32 - 1}")
        self.augment = AugmentConfig(image_size=image_size, **augment)
        usable = augment_on != "device" or not self.augment.extra_transforms
        check_option("augment_on", augment_on, usable, "workers if there are extra_transforms")
        self.source = source
        self.root = root
        self.image_size = image_size
        self.val_size = val_size
        self.train_eval_size = train_eval_size
        self.batch_size = batch_size
        self.augment_on = augment_on
        self.test_only, self.download = False, True
        self.network_classes: tuple[str, ...] = ()
        self._on_device: bool | None = None  # known once training has started
        self.num_workers = num_workers
        self.mirrors = mirrors or []
        self.cache_dir = cache_dir
        self.process_timeout = process_timeout
        # seed_everything documents that it stores the global seed in this variable.
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed

    @cached_property
    def splits(self) -> DataSplits:
        """The data set; loaded, and downloaded or decoded by one process, on first access."""
        workers, timeout = self._num_workers(), self.process_timeout
        options = (self.root, self.image_size, self.mirrors, self.cache_dir, workers, timeout, self.test_only)
        splits = load(self.source, SourceOptions(*options, self.download))
        return splits.relabeled(self.network_classes) if self.test_only else splits

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.splits.classes)

    @property
    def mean(self) -> Channels:
        """Channel means of the training images, in 0..1."""
        return self.splits.mean

    @cached_property
    def std(self) -> Channels:
        """Channel standard deviations of the training images, in 0..1; at least one gray level."""
        return at_least_min_std(self.splits.std)

    @cached_property
    def _train_val_indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return train_val_split(self.splits.train.labels, self.splits.classes, self.val_size, self.seed)

    @cached_property
    def train_dataset(self) -> ImageDataset:
        """The training images, augmented."""
        from cifar_lit.data.augment.cpu import Augmentation  # here: importing albumentations takes seconds

        augmentation = Augmentation(self.augment, self.mean)
        return ImageDataset(self.splits.train, self._train_val_indices[0], augmentation, self.seed)

    @cached_property
    def val_dataset(self) -> ImageDataset:
        """The validation images, not augmented."""
        # Shuffled, so that trainer.limit_val_batches takes images of every class.
        shuffled = np.random.default_rng(self.seed).permutation(self._train_val_indices[1])
        return ImageDataset(self.splits.train, shuffled)

    @cached_property
    def test_dataset(self) -> ImageDataset:
        """The test images, not augmented."""
        return ImageDataset(self.splits.test, np.arange(len(self.splits.test)))

    def prepare_data(self) -> None:
        """Download or decode in the first process of each machine."""
        _ = self.splits

    def setup(self, stage: str) -> None:
        """Raise UsageError early if the data cannot be used."""
        _ = self._train_val_indices

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint stores about the data."""
        fingerprints = {name: getattr(self.splits, name).fingerprint for name in ("train", "test")}
        described = {"classes": list(self.splits.classes), "image_size": self.image_size}
        return {**described, "on_device": self._on_device, **fingerprints}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep augmenting where the run started to (workers or device): the two use different random numbers."""
        self._on_device = state_dict.get("on_device")

    def train_dataloader(self) -> LazyDataLoader | DeviceLoader:
        """Return batches of augmented training images, shuffled in each epoch."""
        dataset = self.train_dataset
        sampler = TrainSampler(dataset, self.seed, self._progress, self.batch_size, *self._rank())
        # BatchNorm cannot train on a single image: drop a last batch of one.
        drop_last = len(sampler) % self.batch_size == 1 and 1 < self.batch_size < len(sampler)
        device = self._device()
        self._on_device = self._augments_on_device()
        if not self._on_device:
            batch_bytes = min(self.batch_size, len(sampler)) * 3 * self.image_size**2
            given, processes = self._num_workers(), self._local_processes()
            workers = fitting_workers("data.num_workers", given, batch_bytes, processes)
            rank_zero_info(f"augmenting in {workers} worker processes (data.augment_on, data.num_workers)")
            options = {"num_workers": workers, "persistent_workers": workers > 0, "worker_init_fn": ignore_signals}
            options["timeout"] = self.process_timeout if workers else 0
            return self._loader(dataset, sampler, self.batch_size, drop_last=drop_last, **options)
        rank_zero_info(f"augmenting on {device}, without worker processes (data.augment_on)")
        augmentation = DeviceAugmentation(self.augment, self.mean)
        return DeviceLoader(dataset, sampler, augmentation, self.batch_size, drop_last, device)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return batches of the validation images; an empty list if there are none."""
        return self._eval_loader(self.val_dataset, "data.val_size") if self.val_size else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return batches of the test images, in order."""
        return self._eval_loader(self.test_dataset, "test images")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return batches of the test images, in order; each of several processes gets every n-th image."""
        return self.test_dataloader()

    def samples(self, positions: NDArray[np.int64]) -> Batch:
        """Return training images as augmented in the first epoch, by their positions in train_dataset."""
        dataset = self.train_dataset
        if not (self._on_device or self.augment_on == "device"):
            return dataset.fetch(positions)
        batch = ImageDataset(dataset.split, dataset.indices).fetch(positions)  # not augmented
        augmentation = DeviceAugmentation(self.augment, self.mean)
        draws = torch.from_numpy(augmentation.draw(self.seed, 0, len(dataset))[positions])
        return batch._replace(images=augmentation(pack(batch.images), draws, 0))

    def _eval_loader(self, dataset: ImageDataset, images: str) -> DataLoader[Batch]:
        # Reading an array needs no workers, and a small training batch need not slow the evaluation down.
        rank, world_size = self._rank()
        if len(dataset) < world_size:
            raise UsageError(f"{images}: {len(dataset)} for {world_size} processes; each needs at least one")
        batch_size = max(self.batch_size, eval_batch_size(self.image_size))
        while len(dataset) % world_size and len(dataset) // world_size % batch_size == 0:
            batch_size += 1  # otherwise some processes have an extra batch and wait forever for the others
        return self._loader(dataset, EvalSampler(dataset, rank, world_size), batch_size)

    def _loader(
        self, dataset: ImageDataset, sampler: DistributedSampler[Key], batch_size: int, **options: Any
    ) -> LazyDataLoader:
        pin_memory = self._device().type == "cuda"
        options |= {"batch_size": batch_size, "sampler": sampler, "pin_memory": pin_memory}
        return LazyDataLoader(dataset, collate_fn=as_is, **options)  # by name: Lightning replaces some to predict

    def _augments_on_device(self) -> bool:
        if self.augment_on != "auto" or self.augment.extra_transforms:
            return self.augment_on == "device"
        if self._on_device is not None:  # later there is less free memory
            return self._on_device
        fits = fits_on(self._device(), len(self.train_dataset), self.image_size)
        return self.trainer.strategy.broadcast(fits) if self.trainer else fits

    def _num_workers(self) -> int:
        usual = max(1, min(8, available_cores() // self._local_processes()))
        return usual if self.num_workers is None else self.num_workers

    def _local_processes(self) -> int:
        return self.trainer.num_devices if self.trainer else 1

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _progress(self) -> tuple[int, int]:
        """Return the current epoch and its number of completed batches."""
        trainer = self.trainer
        return (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready) if trainer else (0, 0)

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
