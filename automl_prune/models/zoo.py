"""Built-in networks: CIFAR ResNets with padded shortcuts, VGG-16-BN and a small digits net.

Every width that a ``forward`` depends on is a module attribute, so that a network can be made
smaller without new Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class ChannelPad(nn.Module):
    """Shortcut without weights: takes every ``stride``-th pixel and adds channels of zeros.

    ``pad_before`` and ``pad_after`` are plain integers and may be changed at any time.
    """

    def __init__(self, pad_before: int, pad_after: int, *, stride: int = 1) -> None:
        super().__init__()
        self.pad_before = pad_before
        self.pad_after = pad_after
        self.stride = stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, pad_before + C + pad_after, H/stride, W/stride)."""
        if self.stride > 1:
            x_BCHW = x_BCHW[:, :, :: self.stride, :: self.stride]
        if self.pad_before or self.pad_after:
            x_BCHW = F.pad(x_BCHW, (0, 0, 0, 0, self.pad_before, self.pad_after))
        return x_BCHW

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{self.pad_before}, {self.pad_after}, stride={self.stride}"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a padded shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            extra = out_channels - in_channels
            self.shortcut = ChannelPad(extra // 2, extra - extra // 2, stride=stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H/stride, W/stride)."""
        y_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        y_BCHW = self.bn2(self.conv2(y_BCHW))
        return F.relu(y_BCHW + self.shortcut(x_BCHW))


class CifarResNet(nn.Module):
    """ResNet for small images with padded shortcuts (He et al. 2016, section 4.2, option A)."""

    def __init__(self, blocks: int, *, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        widths = [_scaled(channels, width) for channels in (16, 32, 64)]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[0], blocks, stride=1)
        self.layer2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.layer3 = _stage(widths[1], widths[2], blocks, stride=2)
        self.linear = nn.Linear(widths[2], num_classes)
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, num_classes)."""
        x_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        x_BCHW = self.layer3(self.layer2(self.layer1(x_BCHW)))
        logits_BK: Tensor = self.linear(x_BCHW.mean(dim=(2, 3)))
        return logits_BK


class CifarVGG(nn.Module):
    """VGG with batch norm, global pooling and one linear layer, for small images."""

    def __init__(self, *, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
            for base in stage:
                out_channels = _scaled(base, width)
                layers += [
                    nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(inplace=True),
                ]
                channels = out_channels
            # ceil_mode changes nothing at 32x32 and lets 28x28 through
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, num_classes)."""
        x_BCHW = self.features(x_BCHW)
        logits_BK: Tensor = self.classifier(x_BCHW.mean(dim=(2, 3)))
        return logits_BK


class DigitsNet(nn.Module):
    """Small net for 8x8 digits: a stem, a residual block, and three more convolutions."""

    def __init__(self, *, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        narrow, wide = _scaled(16, width), _scaled(32, width)
        self.conv1 = nn.Conv2d(in_channels, narrow, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.block = ResidualBlock(narrow, narrow, stride=1)
        self.conv2 = nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv3 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.conv4 = nn.Conv2d(wide, wide, 3, stride=2, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(wide)
        self.linear = nn.Linear(wide, num_classes)
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, num_classes)."""
        x_BCHW = self.block(F.relu(self.bn1(self.conv1(x_BCHW))))
        x_BCHW = F.relu(self.bn2(self.conv2(x_BCHW)))
        x_BCHW = F.relu(self.bn3(self.conv3(x_BCHW)))
        x_BCHW = F.relu(self.bn4(self.conv4(x_BCHW)))
        logits_BK: Tensor = self.linear(x_BCHW.mean(dim=(2, 3)))
        return logits_BK


def resnet20(*, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> CifarResNet:
    """CIFAR ResNet with 20 layers; ``width`` multiplies the 16, 32 and 64 channels."""
    return CifarResNet(3, num_classes=num_classes, in_channels=in_channels, width=width)


def resnet32(*, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> CifarResNet:
    """CIFAR ResNet with 32 layers; ``width`` multiplies the 16, 32 and 64 channels."""
    return CifarResNet(5, num_classes=num_classes, in_channels=in_channels, width=width)


def resnet44(*, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> CifarResNet:
    """CIFAR ResNet with 44 layers; ``width`` multiplies the 16, 32 and 64 channels."""
    return CifarResNet(7, num_classes=num_classes, in_channels=in_channels, width=width)


def resnet56(*, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> CifarResNet:
    """CIFAR ResNet with 56 layers; ``width`` multiplies the 16, 32 and 64 channels."""
    return CifarResNet(9, num_classes=num_classes, in_channels=in_channels, width=width)


def resnet110(*, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> CifarResNet:
    """CIFAR ResNet with 110 layers; ``width`` multiplies the 16, 32 and 64 channels."""
    return CifarResNet(18, num_classes=num_classes, in_channels=in_channels, width=width)


def vgg16_bn(*, num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> CifarVGG:
    """VGG-16 with batch norm for small images; ``width`` multiplies every layer's channels."""
    return CifarVGG(num_classes=num_classes, in_channels=in_channels, width=width)


def digits_net(*, num_classes: int = 10, in_channels: int = 1, width: float = 1.0) -> DigitsNet:
    """Small net for 8x8 grey digits; ``width`` multiplies its 16 and 32 channels."""
    return DigitsNet(num_classes=num_classes, in_channels=in_channels, width=width)


def _stage(in_channels: int, out_channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = ResidualBlock(in_channels, out_channels, stride=stride)
    rest = [ResidualBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
