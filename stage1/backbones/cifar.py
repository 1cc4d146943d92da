"""The CIFAR ResNets of He et al."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from stage1.backbones.base import SingleBackbone

WIDTHS = (16, 32, 64)
"""Channels of the three stages; the last is the feature size D."""


class CifarResNet(SingleBackbone):
    """The CIFAR ResNet of He et al. 2016 §4.2, of depth 6n+2, with parameter-free shortcuts.

    Three stages of n basic blocks with 16, 32 and 64 channels; the second and third halve the
    image. Convolutions have Kaiming-normal weights, as in the LDAM and MiSLAS releases. D = 64.

    Parameters
    ----------
    blocks
        n ≥ 1 blocks per stage.
    in_channels
        C of the images.
    num_classes
        K.
    """

    def __init__(self, blocks: int, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.dim = WIDTHS[-1]
        self.stem = _convolution(in_channels, WIDTHS[0], stride=1)
        self.stem_norm = nn.BatchNorm2d(WIDTHS[0])
        stages: list[nn.Module] = []
        width_in = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(_BasicBlock(width_in, width, stride))
                width_in = width
        self.blocks = nn.Sequential(*stages)
        self._per_stage = blocks
        self.early_layers = ("stem", "stem_norm", *(f"blocks.{block}" for block in range(blocks)))
        self.classifier = nn.Linear(self.dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def early(self, images: torch.Tensor) -> torch.Tensor:
        """The maps [B, 16, H, W] after the first stage."""
        x = F.relu(self.stem_norm(self.stem(images)))
        for block in list(self.blocks)[: self._per_stage]:
            x = block(x)
        return x

    def deep(self, maps: torch.Tensor) -> torch.Tensor:
        """The other stages, and the mean over the last map: [B, 64]."""
        for block in list(self.blocks)[self._per_stage :]:
            maps = block(maps)
        return maps.mean(dim=(2, 3))

    def last_stage(self) -> nn.Module:
        """The n blocks with 64 channels."""
        return self.blocks[-self._per_stage :]


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut of option A: every second pixel, new channels zero."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(width_in, width, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, stride=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride, self.new_channels = stride, width - width_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.new_channels:
            before = self.new_channels // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(x + y)


def _convolution(width_in: int, width: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
