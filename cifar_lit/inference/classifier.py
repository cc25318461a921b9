"""A trained network that classifies and explains images: files, PIL images, arrays and tensors."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_lit.analysis import cam_methods
from cifar_lit.analysis.gradcam import activation_maps, default_layer, upscale, why_flat
from cifar_lit.analysis.localization import read_best_layer
from cifar_lit.data.decode import UnreadableError
from cifar_lit.inference.images import ImagesLike, Item, expand
from cifar_lit.inference.results import Explanations, Predictions
from cifar_lit.inference.stream import Batch, read_batches
from cifar_lit.models import temperature
from cifar_lit.models.resnet import LAYERS, Layer
from cifar_lit.models.weights import TrainedNetwork, fingerprint, load_network
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.hardware import choose_device, eval_batch_size, limit_threads
from cifar_lit.utils.text import counted

EXPLAINED_BATCH = 32  # images; the activations of all layers are kept in memory


class Classifier:
    """A trained network, with its classes and the size of its images.

    Args:
        trained: The network; it is moved to the device.
        device: Such as `cuda`, `cuda:1`, `mps` or `cpu`; by default a GPU if there is one.
        option: How a message names the device.

    Attributes:
        net: The network, in evaluation mode, in float32, without gradients. Maps uint8 `(B, H, W, 3)` to logits
            `(B, C)`.
        classes: The names of the C classes.
        image_size: Height and width in px to which images are resized and center-cropped, as for its training.
        device: The device of the network.
        folder: The folder of the checkpoint.

    Raises:
        UsageError: The device does not exist.
    """

    def __init__(
        self, trained: TrainedNetwork, device: torch.device | str | None = None, option: str = "device="
    ) -> None:
        try:
            self.device = torch.device(device or choose_device("auto"))
            self.net = trained.net.to(self.device)
        except (RuntimeError, AssertionError) as error:  # torch raises both
            reason = str(error).partition("\n")[0]
            raise UsageError(f"{option}{device}: {reason}; use {choose_device('auto')}") from None
        if self.device.type == "cpu":
            limit_threads()
        self.classes = trained.classes
        self.image_size = trained.image_size
        self.folder = trained.folder

    @classmethod
    def load(
        cls,
        run_or_file: str | Path,
        device: torch.device | str | None = None,
        option: str = "RUN",
        device_option: str = "device=",
    ) -> "Classifier":
        """Load the network of a run's folder (its best weights, else the last ones) or of a `.ckpt` file.

        No code from the file runs.

        Raises:
            UsageError: There is no such checkpoint, it is not one of this project, or the device does not exist; the
                message names the option.
        """
        return cls(load_network(str(run_or_file), option), device, device_option)

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b hash of the weights, the class names and the image size, 16 hexadecimal digits."""
        return fingerprint(self.net, self.classes, self.image_size)

    @cached_property
    def temperature(self) -> float | None:
        """The temperature that was fitted to these weights on validation images; None if there is none."""
        found = temperature.find(self.folder, self.fingerprint) if self.folder else None
        return found.value if found else None

    @cached_property
    def layer_choice(self) -> tuple[Layer, str]:
        """The layer that is explained by default, and why: that of the report, or by the size of its CAMs alone."""
        if self.folder:
            folder = self.folder.absolute()
            reports = folder.parent if folder.name == "checkpoints" else folder
            evaluations = sorted(reports.glob("evaluation_*/evidence.json"), key=lambda file: file.stat().st_mtime)
            for file in [*reports.glob("report/evidence.json"), *reversed(evaluations)]:
                if layer := read_best_layer(file, self.fingerprint):
                    return layer, f"best localization in {file}"
        layer = default_layer(self.net, self.image_size)
        return layer, "the default, because no localization scores are recorded for these weights"

    def require_temperature(self, option: str = "calibrated") -> float:
        """Return the temperature.

        Raises:
            UsageError: There is none; the message names the option.
        """
        if self.temperature is None:
            raise UsageError(
                f"{option}: no temperature is stored for these weights in {self.folder}; python -m cifar_lit.evaluate "
                "CHECKPOINT fits one if its run had validation images (data.val_size)"
            )
        return self.temperature

    def predict(self, images: ImagesLike, num_workers: int = 0, calibrated: bool = False) -> Predictions:
        """Classify images.

        Args:
            images: Paths of files or folders, PIL images, uint8 RGB arrays or tensors `(H, W, 3)` or `(N, H, W, 3)`,
                or an iterable of any of these. Images may have any size: they are resized and center-cropped.
            num_workers: Processes that decode files; 0 decodes in this one. More are faster for thousands of files.
            calibrated: Whether to divide the logits by the `temperature`: the predicted classes stay the same, their
                probabilities are closer to how often they are correct.

        Raises:
            UsageError: There is no such file, or no temperature, or the images have another type, dtype, shape or
                range; the message says how to convert them.
            UnreadableError: A file cannot be decoded. `python -m cifar_lit.predict` lists such files instead.
        """
        files, tables = list[str | None](), [np.empty((0, len(self.classes)), np.float32)]
        for predictions, unreadable in self.stream(expand(images), num_workers, calibrated):
            if unreadable:
                raise UnreadableError(unreadable[0])
            files += predictions.files
            tables.append(predictions.probabilities)
        return Predictions(self.classes, np.concatenate(tables), tuple(files))

    def stream(
        self, items: Iterable[Item], num_workers: int = 0, calibrated: bool = False
    ) -> Iterator[tuple[Predictions, list[str]]]:
        """Classify any number of images in little memory.

        Args:
            items: Single images, from `expand` or `image_files`.
            num_workers: Processes that decode files while the network computes; 0 decodes in this one.
            calibrated: As for `predict`.

        Yields:
            For each batch the predictions, and a message for each file that cannot be decoded.

        Raises:
            UsageError: There is no temperature.
            RuntimeError: A worker has died or does not answer.
        """
        temperature = self.require_temperature() if calibrated else 1.0
        computing: tuple[Batch, torch.Tensor] | None = None
        for batch in chain(read_batches(items, self.image_size, eval_batch_size(self.image_size), num_workers), [None]):
            previous, computing = computing, batch and (batch, self._forward(batch.images, temperature))
            if previous:  # the caller handles it while a GPU computes the next batch
                files, probabilities = previous[0].files, previous[1].cpu().numpy()
                yield Predictions(self.classes, probabilities, tuple(files)), previous[0].unreadable

    def probabilities(self, images: torch.Tensor, temperature: float = 1.0) -> NDArray[np.float32]:
        """Map one batch of images `(B, S, S, 3)`, uint8, to probabilities `(B, C)`, float32, of the divided logits."""
        probabilities: NDArray[np.float32] = self._forward(images, temperature).cpu().numpy()
        return probabilities

    def _forward(self, images: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        with torch.inference_mode():
            probabilities: torch.Tensor = (self.net(images.to(self.device)) / temperature).softmax(1)
        return probabilities

    def explain(
        self,
        images: ImagesLike,
        classes: str | Sequence[str] | None = None,
        layers: Layer | Sequence[Layer] | None = None,
        method: str = "GradCAM",
        calibrated: bool = False,
    ) -> Explanations:
        """Compute class activation maps (CAMs): which regions of an image are evidence for a class.

        Args:
            images: As for `predict`.
            classes: Name of the class to explain, or a name for each image; by default the predicted ones.
            layers: Names among `layer1` to `layer4`; by default the one that localizes best according to the report
                beside the checkpoint; without its scores (evidence.num_mosaics), the deepest with a CAM above 5 px.
            method: `GradCAM`, or another method of the grad-cam package.
            calibrated: As for `predict`; CAMs do not depend on it.

        Raises:
            UsageError: As for `predict`, or there is no such class, layer or method.
            UnreadableError: A file cannot be decoded.
        """
        method = cam_methods.check("method", method)
        layers = [layers] if isinstance(layers, str) else layers or [self.layer_choice[0]]
        if unknown := set(layers) - set(LAYERS):
            raise UsageError(f"layers={', '.join(sorted(unknown))}: choose from {', '.join(LAYERS)}")
        items = list(expand(images))
        if not items:
            raise UsageError("images: there are none to explain")
        targets = self._targets(classes, len(items))
        temperature = self.require_temperature() if calibrated else 1.0
        parts = []
        for batch in read_batches(items, self.image_size, min(EXPLAINED_BATCH, eval_batch_size(self.image_size))):
            if batch.unreadable:
                raise UnreadableError(batch.unreadable[0])
            table, pixels = self.probabilities(batch.images, temperature), batch.images.numpy()
            labels = table.argmax(1) if targets is None else targets[: len(table)]
            targets = None if targets is None else targets[len(table) :]
            maps = activation_maps(self.net, pixels, labels[:, None], layers, method)
            small = [[maps[layer][i, 0] for layer in layers] for i in range(len(table))]
            cams = np.array([[upscale(cam, self.image_size) for cam in row] for row in small])  # (B, L, S, S)
            parts.append((table, batch.files, pixels, labels, cams, [tuple(map(why_flat, row)) for row in small]))
        tables, files, seen, explained, cams, flat = zip(*parts, strict=True)
        predictions = Predictions(self.classes, np.concatenate(tables), tuple(chain(*files)))
        names = tuple(self.classes[label] for label in np.concatenate(explained))
        flat = tuple(chain(*flat))
        return Explanations(predictions, np.concatenate(seen), names, tuple(layers), method, np.concatenate(cams), flat)

    def _targets(self, classes: str | Sequence[str] | None, count: int) -> NDArray[np.int64] | None:
        """Return the index of the class to explain in each image; None for the predicted classes."""
        if classes is None:
            return None
        names = [classes] * count if isinstance(classes, str) else list(classes)
        if unknown := sorted(set(names) - set(self.classes)):
            raise UsageError(f"classes={unknown[0]}: the network's classes are {', '.join(self.classes)}")
        if len(names) != count:
            raise UsageError(
                f"classes: got {counted(len(names), 'name')} for {counted(count, 'image')}; use one name, or one for "
                "each image"
            )
        return np.array([self.classes.index(name) for name in names], np.int64)
