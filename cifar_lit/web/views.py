"""The answers of the page: functions of what a user has chosen."""

from pathlib import Path

from PIL import Image

from cifar_lit.data.decode import UnreadableError, read
from cifar_lit.inference.classifier import Classifier
from cifar_lit.models.resnet import Layer
from cifar_lit.utils.errors import UsageError
from cifar_lit.web import html
from cifar_lit.web.content import Content, TestImage

MAX_CLASSES = 10  # in the list of probabilities
ANY = -1  # in place of the number of a class


class Views:
    """Explains uploaded and misclassified images with a network.

    Args:
        classifier: The network.
        folder: The folder of the content.
        content: What it contains.
    """

    def __init__(self, classifier: Classifier, folder: Path, content: Content) -> None:
        self.classifier, self.folder, self.content = classifier, folder, content

    def path(self, image: TestImage) -> str:
        """Return the file of a test image."""
        return str(self.folder / image.file)

    def explain(
        self, file: str | None, label: int, layer: Layer, method: str, shown: int, calibrated: bool = False
    ) -> str:
        """Return the evidence for a class in an image file, and the most probable classes.

        Args:
            file: PNG, JPEG or WebP of any size; None before there is one.
            label: The class to explain; ANY for the predicted one.
            layer: The layer to explain.
            method: Of the grad-cam package.
            shown: How many classes to list.
            calibrated: Whether to divide the logits by the stored temperature.
        """
        if file is None:
            return html.message("Add an image: drop, paste or choose a file, or click an example.")
        if not Path(file).exists():
            return html.message("Uploaded images are deleted after ten minutes: add it again.")
        try:
            pixels = read(file, self.classifier.image_size)
            name = None if label == ANY else self.classifier.classes[label]
            result = self.classifier.explain(Image.fromarray(pixels), name, layer, method, calibrated)
        except (UnreadableError, UsageError) as error:
            return html.message(str(error).replace(file, Path(file).name))
        ranked = result.predictions.top(MAX_CLASSES)[0]
        probability = dict(result.predictions.top(len(self.classifier.classes))[0])[result.explained[0]]
        caption = f"Evidence for {result.explained[0]}, {probability:.1%}"
        return html.cams(pixels, [(result.cams[0, 0], caption, result.flat[0][0])], html.classes(ranked, shown))

    def find_errors(self, true: int, predicted: int, count: int) -> list[int]:
        """Return the positions in `content.errors` of the first `count` images with a true and a predicted class."""
        names = [None if label == ANY else self.classifier.classes[label] for label in (true, predicted)]
        return [
            position
            for position, image in enumerate(self.content.errors)
            if names[0] in (None, image.true) and names[1] in (None, image.predicted)
        ][:count]

    def describe_errors(self, true: int, predicted: int, count: int) -> str:
        """Return a sentence about what `find_errors` finds."""
        stored, content = len(self.content.errors), self.content
        found = len(self.find_errors(true, predicted, stored))
        part = "" if stored == content.num_errors else f" Only the {stored} with the highest loss are stored here."
        of_these = "" if (true, predicted) == (ANY, ANY) else f" {found:,} are of these classes."
        return (
            f"{content.num_errors:,} of {content.num_test:,} test images are misclassified.{part}{of_these} "
            f"Showing {min(found, count):,} as true → predicted class, the highest loss first: click one."
        )

    def open_error(self, position: int | None, layer: Layer, method: str, calibrated: bool = False) -> str:
        """Return the evidence for the true and for the predicted class of a misclassified image; see `explain`."""
        if position is None:
            return html.message("No misclassified image is of these classes; choose others.")
        image = self.content.errors[position]
        pixels = read(self.path(image), self.classifier.image_size)
        names = [image.true, image.predicted]
        result = self.classifier.explain([Image.fromarray(pixels)] * 2, names, layer, method, calibrated)
        probabilities = dict(result.predictions.top(len(self.classifier.classes))[0])
        drawn = [
            (cam, f"{kind} class: {name}, {probabilities[name]:.1%}", flat[0])
            for kind, name, cam, flat in zip(("True", "Predicted"), names, result.cams[:, 0], result.flat, strict=True)
        ]
        return html.cams(pixels, drawn)
