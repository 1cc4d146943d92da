"""Colours of a batch: changes by a factor for each image.

Images are [B, C, H, W] in 0…255, of 1 channel or 3, uint8 or float32; grey ones have no colour to
change. float32 stays unrounded; uint8 is truncated to whole levels after each change, as in
torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F


def grey(images: torch.Tensor) -> torch.Tensor:
    """Luma [B, 1, H, W] by ITU-R 601, with torchvision's digits."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.float().split(1, 1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(images.dtype)


def brightness(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with black."""
    return blend(images.new_zeros(1, 1, 1, 1), images, factors)


def contrast(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with the image's mean luma."""
    return blend(grey(images).float().mean((1, 2, 3), keepdim=True), images, factors)


def saturation(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Blend with the luma."""
    return images if images.shape[1] == 1 else blend(grey(images), images, factors)


def blend(degenerate: torch.Tensor, images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """f·image + (1−f)·degenerate, cut to 0…255; a factor f [B] above 1 overshoots."""
    f = factors.view(-1, 1, 1, 1)
    mixed = torch.addcmul(images * f.float(), degenerate.float(), (1 - f).float())
    return mixed.clamp(0, 255).to(images.dtype)


def hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn the hue by `turns` [B] of the colour circle, −½…½; value and saturation stay.

    With value V, chroma C and hue h in sixths, channel n ∈ {5, 3, 1} of red, green and blue is
    V − C·clamp(min(k, 4 − k), 0, 1), k = (n + h) mod 6.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.float().split(1, 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    unit = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(
        value == red,
        (green - blue) / unit,
        torch.where(value == green, 2 + (blue - red) / unit, 4 + (red - green) / unit),
    )
    n = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    k = (n + sixths + 6 * turns.view(-1, 1, 1, 1)) % 6
    return (value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)).to(images.dtype)


CHANGES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
"""The changes of `jitter` by name: images and factors [B] in, images out."""


def draw_jitter(
    strengths: Mapping[str, float], count: int, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw torchvision's ColorJitter for B images: factors [B, n] and orders [B, n].

    Factors of the n changes named in `strengths` are uniform in 1 ± strength, those of ``hue`` in
    ± strength; orders are uniform permutations of 0…n−1.
    """
    shape, device = (count, len(strengths)), generator.device
    spread = torch.tensor([*strengths.values()], device=device)
    centre = torch.tensor([float(name != "hue") for name in strengths], device=device)
    uniform = 2 * torch.rand(shape, generator=generator, device=device) - 1
    order = torch.rand(shape, generator=generator, device=device).argsort(1)
    return centre + spread * uniform, order


def jitter(
    images: torch.Tensor, names: tuple[str, ...], factors: torch.Tensor, order: torch.Tensor
) -> torch.Tensor:
    """Apply the changes `names` to each image, by its factors and in its order [B, n]."""
    images = images.clone()
    for step in order.unbind(1):
        for number, name in enumerate(names):
            rows = (step == number).nonzero()[:, 0]
            images[rows] = CHANGES[name](images[rows], factors[rows, number])
    return images


def blur(images: torch.Tensor, sigmas: torch.Tensor, size: int) -> torch.Tensor:
    """Blur each image with its own Gaussian, of `sigmas` [B] pixels on `size` (odd) pixels."""
    B, C, H, W = images.shape
    place = torch.arange(size, device=images.device) - size // 2
    weights = torch.softmax(-0.5 * (place / sigmas[:, None]) ** 2, 1)  # [B, size]
    weights = weights.repeat_interleave(C, 0)
    planes = F.pad(images.float(), (size // 2,) * 4, mode="reflect")
    planes = planes.view(1, B * C, *planes.shape[2:])
    planes = F.conv2d(planes, weights.view(B * C, 1, size, 1), groups=B * C)
    planes = F.conv2d(planes, weights.view(B * C, 1, 1, size), groups=B * C)
    return planes.view(B, C, H, W)
