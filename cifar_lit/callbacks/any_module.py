"""The misclassified images of any LightningModule, for the callbacks in a Trainer of another project."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from cifar_lit.analysis import cam_methods
from cifar_lit.analysis.gradcam import GRADIENT_METHODS, grad_cam
from cifar_lit.analysis.layer_outputs import Reshape, check_layers
from cifar_lit.analysis.predictions import Predictions
from cifar_lit.report.error_results import ErrorResults
from cifar_lit.training import compat
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.text import counted

HOOKS = ("pytorch_lightning.core.hooks", "lightning.pytorch.core.hooks")  # is_overridden knows one package only
NEEDED = "a batch must be (images, labels): images (B, 3, H, W), (B, 1, H, W) or (B, H, W, 3), labels (B,)"


@dataclass(frozen=True)
class ModuleOptions:
    """How to evaluate a module that is not ImageClassifier; see MisclassifiedImages and GradCAMGrid."""

    class_names: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    to_display: Callable[[Tensor], Tensor | NDArray[np.uint8]] | None = None
    logits: Callable[[Any], Tensor] | None = None
    dataloader: Iterable[Any] | None = None
    target_layer: nn.Module | str | None = None
    reshape_transform: Reshape | None = None

    def merge(self, other: "ModuleOptions") -> "ModuleOptions":
        """Return these options, and the other ones where there are none."""
        pairs = {one.name: (getattr(self, one.name), getattr(other, one.name)) for one in fields(self)}
        return ModuleOptions(**{name: a if a is not None else b for name, (a, b) in pairs.items()})

    def layer_name(self, module: LightningModule) -> str:
        """Return the name of the target layer in a module.

        Raises:
            UsageError: There is no such layer.
        """
        names: dict[str, nn.Module] = {name: one for name, one in module.named_modules() if name}
        for name, one in names.items():
            if name == self.target_layer or one is self.target_layer:
                return name
        convolutions = [name for name, one in names.items() if isinstance(one, nn.Conv2d)]
        example = f", such as {convolutions[-1]!r}" if convolutions else ""
        problem = f"no layer {self.target_layer!r}" if self.target_layer is not None else "no target_layer was given"
        raise UsageError(
            f"GradCAMGrid: {problem}; target_layer must be a layer of {type(module).__name__}, or its name in "
            f"named_modules(){example}"
        )

    def display(self, images: Tensor) -> NDArray[np.uint8]:
        """Return images as `(B, H, W, 3)`, uint8.

        Raises:
            UsageError: The shape or the range of the images needs `mean` and `std`, or `to_display`.
        """
        images = images.detach().cpu()
        if self.to_display:
            shown = np.asarray(self.to_display(images))
            if shown.dtype != np.uint8 or shown.ndim != 4 or shown.shape[3] != 3:
                raise UsageError(f"to_display must return uint8 (B, H, W, 3), got {shown.dtype} {shown.shape}")
            return shown
        if images.ndim != 4 or not (images.shape[1] in (1, 3) or images.shape[3] == 3):
            raise UsageError(f"images of shape {tuple(images.shape)}: {NEEDED}; or give to_display")
        if images.shape[3] != 3:
            images = images.permute(0, 2, 3, 1)  # (B, H, W, C)
        if images.dtype != torch.uint8:
            if self.mean is not None and self.std is not None:
                if not {len(self.mean), len(self.std)} <= {1, images.shape[3]}:
                    raise UsageError(f"mean={self.mean}, std={self.std}: give {counted(images.shape[3], 'value')} each")
                images = images * torch.tensor(self.std) + torch.tensor(self.mean)
            elif images.min() < 0 or images.max() > 1:
                raise UsageError(
                    f"images from {images.min():.3g} to {images.max():.3g} cannot be drawn: give mean and std, which "
                    "they were normalized with, or to_display"
                )
            images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        return images.expand(-1, -1, -1, 3).numpy()


MODULE_OPTIONS = frozenset(one.name for one in fields(ModuleOptions))


@dataclass(frozen=True)
class ModuleResults(ErrorResults):
    """What a module predicts for the images of a loader.

    Attributes:
        module: The module.
        device: Where it is evaluated.
        options: How it is evaluated.
        inputs: The batches' images of some rows of `test`: those to draw.
    """

    module: LightningModule = field(repr=False)
    device: torch.device
    options: ModuleOptions = field(repr=False)
    inputs: dict[int, Tensor] = field(repr=False)

    @property
    def default_layer(self) -> str:
        """Name of the target layer."""
        return self.options.layer_name(self.module)

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of misclassified rows of `test`: `(N, H, W, 3)`, uint8."""
        return self.options.display(self._inputs(rows))

    def cams(self, rows: NDArray[np.int64], layers: Sequence[Any], method: str) -> dict[Any, NDArray[np.float32]]:
        """Return the CAMs for the true and the predicted class; see `activation_maps`."""
        classes = torch.from_numpy(self.test.target_classes(rows)).to(self.device)
        modules = [self.module.get_submodule(name) for name in layers]
        with _evaluating(self.module, self.device), torch.inference_mode(False), torch.enable_grad():
            inputs = self._inputs(rows).clone().to(self.device)
            reshape = self.options.reshape_transform
            check_layers(self._logits, inputs[:1], modules, reshape)
            if method in GRADIENT_METHODS:
                cams = grad_cam(lambda: self._logits(inputs), modules, classes, reshape, [method])[method]
            else:
                network = _Logits(self.module, self._logits)
                cams = cam_methods.run(method, network, inputs, classes, modules, reshape)
        return dict(zip(layers, cams, strict=True))

    def _inputs(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.stack([self.inputs[row] for row in rows.tolist()])

    def _logits(self, inputs: Tensor) -> Tensor:
        return logits_of(self.module, inputs, self.options)


class _Logits(nn.Module):
    """A module whose output is the logits, as the grad-cam package needs it."""

    def __init__(self, module: nn.Module, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.logits = module, logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs)


def evaluate_module(trainer: Trainer, module: LightningModule, options: ModuleOptions, k: int) -> ModuleResults:
    """Run a module over its test images, and keep the `k` misclassified ones with the highest loss.

    Args:
        trainer: For the device, the precision, `limit_test_batches` and the loader; see `_find_loader`.
        module: Not changed.
        options: How to evaluate it.
        k: Number of images to keep.

    Raises:
        UsageError: There is no loader, or its batches are not `(images, labels)`.
    """
    loader, device = _find_loader(trainer, module, options), trainer.strategy.root_device
    tables: list[NDArray[np.float64]] = []
    labels: list[NDArray[np.int64]] = []
    worst: dict[int, tuple[float, Tensor]] = {}  # loss and image, by row
    with _evaluating(module, device), torch.inference_mode():
        limit: Any = trainer.limit_test_batches
        if isinstance(limit, float):  # 1.0 means all
            limit = int(limit * len(loader)) if limit < 1 else None
        for batch in itertools.islice(loader, limit):
            pair = batch[:2] if isinstance(batch, list | tuple) else ()
            if len(pair) < 2 or not all(isinstance(one, Tensor) for one in pair) or pair[1].ndim != 1:
                raise UsageError(f"a batch of the loader is {type(batch).__name__}; {NEEDED}")
            with trainer.precision_plugin.forward_context():
                logits = logits_of(module, batch[0].to(device), options)
            table = logits.float().cpu().double().log_softmax(1).numpy()
            true, row = np.asarray(batch[1].cpu()).astype(np.int64), sum(map(len, labels))
            if true.size and not 0 <= true.min() <= true.max() < table.shape[1]:
                found = f"a batch of the loader has labels from {true.min()} to {true.max()}"
                raise UsageError(f"{found}, but {type(module).__name__} returns {counted(table.shape[1], 'logit')}")
            losses = -table[np.arange(len(true)), true]
            for i in np.flatnonzero(table.argmax(1) != true):
                worst[row + int(i)] = (float(losses[i]), batch[0][i].cpu().clone())
            worst = dict(sorted(worst.items(), key=lambda one: (-one[1][0], one[0]))[:k])
            tables.append(table)
            labels.append(true)
    if not labels:
        raise UsageError("the loader has no batches; give dataloader")
    everything = np.concatenate(tables)
    test = Predictions(np.arange(len(everything)), np.concatenate(labels), everything)
    names = options.class_names or getattr(getattr(loader, "dataset", None), "classes", None)
    names = names or [str(i) for i in range(everything.shape[1])]
    if len(names) != everything.shape[1]:
        raise UsageError(f"class_names: {counted(len(names), 'name')} for {counted(everything.shape[1], 'logit')}")
    weights = f"last weights, epoch {compat.epochs_finished(trainer)}"
    inputs = {row: image for row, (_, image) in worst.items()}
    return ModuleResults(tuple(map(str, names)), weights, test, module, device, options, inputs)


def logits_of(module: LightningModule, inputs: Tensor, options: ModuleOptions) -> Tensor:
    """Return the logits `(B, C)` of a batch of images.

    Raises:
        UsageError: The module returns something else.
    """
    output = module(inputs)
    logits = options.logits(output) if options.logits else output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        kind = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"{type(module).__name__} returns {kind}, not logits (B, classes); give logits, a function of its output, "
            "such as logits=lambda output: output['logits']"
        )
    return logits


def _find_loader(trainer: Trainer, module: LightningModule, options: ModuleOptions) -> Any:
    """Return the loader that was given, else the test loader of datamodule or module, else the validation loader."""
    if options.dataloader is not None:
        return options.dataloader
    data: LightningDataModule | None = getattr(trainer, "datamodule", None)
    loader: Any = trainer.val_dataloaders if trainer.world_size == 1 else None  # it has a part of the images
    if data and data.test_dataloader.__module__ not in HOOKS:
        data.setup("test")
        loader = data.test_dataloader()
    elif module.test_dataloader.__module__ not in HOOKS:
        loader = module.test_dataloader()
    first = loader[0] if isinstance(loader, list | tuple) else loader
    if first is None:
        raise UsageError("MisclassifiedImages, GradCAMGrid: no test_dataloader; give dataloader, the loader to use")
    return first


@contextmanager
def _evaluating(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a module in evaluation mode on a device for the block, and restore it."""
    modes = {one: one.training for one in module.modules()}
    before = next((parameter.device for parameter in module.parameters()), device)
    module.to(device).eval()
    try:
        yield
    finally:
        module.to(before)
        for one, mode in modes.items():
            one.training = mode
