"""Train a ResNet-18 on CIFAR-10, list the images that it misclassifies, and show why."""

__version__ = "0.1.0"
