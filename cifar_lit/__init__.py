"""Train a ResNet-18 on CIFAR-10, show what it gets wrong, and show why."""

__version__ = "0.1.0"
