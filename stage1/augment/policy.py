"""AutoAugment's policies [Cubuk et al. 2019] on whole batches.

Images that drew the same operation are changed together, each by the magnitude it drew. Operations
and magnitudes are those of torchvision's AutoAugment, which fills with black.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms.v2 import functional as TF

from stage1.augment.colour import brightness, contrast, saturation
from stage1.augment.geometry import affine

POLICIES = {name: AutoAugment(AutoAugmentPolicy[name]).policies for name in ("CIFAR10", "IMAGENET")}
"""By name, 25 pairs of (operation, probability, magnitude 0…9 or None)."""

STRONGEST = {
    "ShearX": 0.3,
    "ShearY": 0.3,
    "Rotate": 30.0,
    "Brightness": 0.9,
    "Color": 0.9,
    "Contrast": 0.9,
    "Sharpness": 0.9,
}
"""Magnitude of level 9: slope, degrees, or factor less 1."""

SIGNED = {*STRONGEST, "TranslateX", "TranslateY"}
"""Operations whose magnitudes are drawn with either sign."""

Choice = list[tuple[str, float]]
"""The operations an image drew, at most two, in their order, each with its magnitude."""


def draw_policy(
    count: int, size: tuple[int, int], *, generator: torch.Generator, policy: str = "CIFAR10"
) -> list[Choice]:
    """Draw the operations of a policy for each of `count` images of `size` (H, W)."""
    device, pairs = generator.device, POLICIES[policy]
    chosen = torch.randint(len(pairs), (count,), generator=generator, device=device)
    draws = torch.rand(count, 2, generator=generator, device=device)
    signs = 2 * torch.randint(2, (count, 2), generator=generator, device=device) - 1
    return [
        [
            (operation, (sign if operation in SIGNED else 1) * magnitude_of(operation, level, size))
            for (operation, probability, level), draw, sign in zip(
                pairs[number], pair, both, strict=True
            )
            if draw < probability
        ]
        for number, pair, both in zip(chosen.tolist(), draws.tolist(), signs.tolist(), strict=True)
    ]


def apply_policy(images: torch.Tensor, choices: list[Choice]) -> torch.Tensor:
    """Apply drawn operations to a copy of images [B, C, H, W] uint8, C 1 or 3."""
    images = images.clone()
    for step in range(2):
        drawn = defaultdict(list)
        for row, choice in enumerate(choices):
            if step < len(choice):
                operation, magnitude = choice[step]
                drawn[operation].append((row, magnitude))
        for operation, pairs in drawn.items():
            places, magnitudes = zip(*pairs, strict=True)
            rows = torch.tensor(places, device=images.device)
            amounts = torch.tensor(magnitudes, dtype=torch.float64).to(images.device)
            images[rows] = OPERATIONS[operation](images[rows], amounts)
    return images


@functools.cache
def magnitude_of(operation: str, level: int | None, size: tuple[int, int]) -> float:
    """The magnitude of a level 0…9 for images of `size` (H, W), in float32 as in torchvision.

    Pixels, degrees, bits, a threshold in 0…255, or the difference of a factor from 1.
    """
    if level is None:
        return 0.0
    if operation == "Posterize":
        return 8 - round(4 * level / 9)
    if operation == "Solarize":
        return 255 * torch.linspace(1, 0, 10)[level].item()
    if operation in ("TranslateX", "TranslateY"):
        length = size[operation == "TranslateX"]
        return int(torch.linspace(0, 150 / 331 * length, 10)[level].item())
    return torch.linspace(0, STRONGEST[operation], 10)[level].item()


def _shear_x(images: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    # About the upper left corner: x' + W/2 = x + W/2 + s·(y + H/2).
    maps = _identity(slopes)
    maps[:, 0, 1], maps[:, 0, 2] = slopes, slopes * images.shape[2] / 2
    return affine(images, maps)


def _shear_y(images: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    maps = _identity(slopes)
    maps[:, 1, 0], maps[:, 1, 2] = slopes, slopes * images.shape[3] / 2
    return affine(images, maps)


def _translate_x(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    maps = _identity(pixels)
    maps[:, 0, 2] = -pixels
    return affine(images, maps)


def _translate_y(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    maps = _identity(pixels)
    maps[:, 1, 2] = -pixels
    return affine(images, maps)


def _rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    maps, angles = _identity(degrees), degrees * (math.pi / 180)
    maps[:, 0, 0] = maps[:, 1, 1] = angles.cos()
    maps[:, 1, 0] = angles.sin()
    maps[:, 0, 1] = -angles.sin()
    return affine(images, maps)


def _identity(magnitudes: torch.Tensor) -> torch.Tensor:
    return torch.eye(2, 3, device=magnitudes.device).repeat(len(magnitudes), 1, 1)


def _sharpness(images: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    # Written as torchvision writes it, to round alike.
    sharp, soft = images.float(), TF.adjust_sharpness(images, 0.0)
    made = torch.addcmul(sharp, soft - sharp, -by.float().view(-1, 1, 1, 1))
    return made.clamp(0, 255).to(images.dtype)


def _posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    lost = (8 - bits).to(torch.uint8).view(-1, 1, 1, 1)
    return images >> lost << lost


def _solarize(images: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    return torch.where(images >= thresholds.float().view(-1, 1, 1, 1), 255 - images, images)


OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": lambda images, by: brightness(images, 1 + by),
    "Color": lambda images, by: saturation(images, 1 + by),
    "Contrast": lambda images, by: contrast(images, 1 + by),
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": lambda images, _: TF.autocontrast(images),
    "Equalize": lambda images, _: TF.equalize(images),
    "Invert": lambda images, _: TF.invert(images),
}
"""AutoAugment's operations by name: images [B, C, H, W] uint8 and magnitudes [B] in, uint8 out."""
