"""ResNet-18 (arXiv 1512.03385) from torchvision, with a choice of stem and normalization."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torchvision.models import resnet18
from torchvision.models.convnext import LayerNorm2d

Stem = Literal["cifar", "imagenet"]
Norm = Literal["batch", "layer"]
Init = Literal["he", "torch"]
MemoryFormat = Literal["channels_last", "contiguous"]
Layer = Literal["layer1", "layer2", "layer3", "layer4"]
LAYERS: tuple[Layer, ...] = get_args(Layer)


def smallest_strided(image_size: int, stem: Stem) -> int:
    """Return height and width in px of the input of `layer4`, whose first convolution has stride 2.

    Args:
        image_size: Height and width of the images in px.
        stem: As in `ResNet18`.
    """
    return -(-image_size // (4 if stem == "cifar" else 16))


class Normalize(nn.Module):
    """Standardize uint8 images on their device.

    As a part of the network it is saved in every checkpoint.

    Args:
        mean: Channel means, in 0..1.
        std: Channel standard deviations, in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 `(B, H, W, 3)` to float `(B, 3, H, W)` in channels-last memory format.

        Raises:
            ValueError: The images have another dtype or shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"images must be uint8 of shape (B, H, W, 3), got {images.dtype} of shape {tuple(images.shape)}; "
                "convert floats (B, 3, H, W) in 0..1 with images.mul(255).round().byte().permute(0, 2, 3, 1)"
            )
        pixels = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        return pixels * (1 / (255 * self.std)) - self.mean / self.std  # two operations, not three


class OutputLayer(nn.Linear):
    """A linear layer that computes in float32 in evaluation mode: bfloat16 would round logits and make ties."""

    def forward(self, features: Tensor) -> Tensor:
        """Map features `(B, D)` to logits `(B, num_classes)`."""
        if self.training:
            return super().forward(features)
        dtype = torch.promote_types(features.dtype, torch.float32)  # float64 stays
        with torch.autocast(features.device.type, enabled=False):
            return linear(features.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class ResNet18(nn.Module):
    """ResNet-18 for uint8 images.

    Args:
        num_classes: Number of classes, at least 2.
        mean: Channel means of the training images, in 0..1.
        std: Channel standard deviations of the training images, in 0..1.
        stem: `cifar` is a 3x3 convolution of stride 1 without pooling (section 4.2 of the ResNet paper);
            `imagenet` is torchvision's 7x7 convolution of stride 2 with pooling.
        norm: `batch` is BatchNorm; `layer` is ConvNeXt's LayerNorm over the channels of each position
            (arXiv 2201.03545).
        init: Initialization of the convolutions. `he` is torchvision's, normal with variance 2 / fan out
            (arXiv 1502.01852); `torch` is that of torch.nn.Conv2d, uniform with variance 1 / (3 fan in), whose smaller
            weights change direction more in a step before a BatchNorm (arXiv 1706.05350).
        zero_init_residual: Initialize every residual block as the identity (arXiv 1706.02677, section 5.1).
        memory_format: Memory format of images and weights; changes the speed, not the result.
    """

    def __init__(
        self,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        stem: Stem = "cifar",
        norm: Norm = "batch",
        init: Init = "he",
        zero_init_residual: bool = False,
        memory_format: MemoryFormat = "channels_last",
    ) -> None:
        super().__init__()
        norm_layer = nn.BatchNorm2d if norm == "batch" else partial(LayerNorm2d, eps=1e-6)
        self.normalize = Normalize(mean, std)
        self.backbone = resnet18(num_classes=num_classes, norm_layer=norm_layer, zero_init_residual=zero_init_residual)
        last = self.backbone.fc
        self.backbone.fc = OutputLayer(last.in_features, last.out_features, device="meta")  # without random numbers
        self.backbone.fc.weight, self.backbone.fc.bias = last.weight, last.bias
        if stem == "cifar":
            self.backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.backbone.maxpool = nn.Identity()
        if init == "torch":
            for conv in self.backbone.modules():
                if isinstance(conv, nn.Conv2d):
                    conv.reset_parameters()
        self.memory_format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images `(B, H, W, 3)` to logits `(B, num_classes)`."""
        logits: Tensor = self.backbone(self.normalize(images).contiguous(memory_format=self.memory_format))
        return logits

    def layer(self, name: Layer) -> nn.Module:
        """Return one of the four groups of residual blocks, `layer1` to `layer4`."""
        return self.get_submodule(f"backbone.{name}")
