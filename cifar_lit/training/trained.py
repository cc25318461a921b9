"""A trained network, loaded from a run or a checkpoint."""

from dataclasses import dataclass

from cifar_lit.models.resnet import ResNet18
from cifar_lit.training import checkpoint_files
from cifar_lit.utils.errors import UsageError


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with what it was trained for.

    Attributes:
        net: In evaluation mode, in float32, without gradients, on the CPU.
        classes: The class names.
        image_size: Height and width in pixels of the images that it was trained on.
    """

    net: ResNet18
    classes: tuple[str, ...]
    image_size: int


def load_network(path: str) -> TrainedNetwork:
    """Load the network of a run's folder (its best weights, else the last ones) or of a checkpoint.

    Raises:
        UsageError: There is no such checkpoint, or it is not one of this project.
    """
    file = checkpoint_files.of_run(path)
    checkpoint = checkpoint_files.read(file)
    try:
        built, data = checkpoint["hyper_parameters"], checkpoint["ImageDataModule"]
        net = ResNet18(built["num_classes"], built["mean"], built["std"], built["stem"], built["norm"])
        net.load_state_dict(checkpoint_files.net_state(checkpoint["state_dict"]))
        return TrainedNetwork(net.eval().requires_grad_(False), tuple(data["classes"]), data["image_size"])
    except (KeyError, RuntimeError) as error:
        raise UsageError(
            f"--ckpt_path {path}: {file} does not say what its network was trained for ({error}); give a checkpoint "
            "of python -m cifar_lit.fit"
        ) from None
