"""The augmentations of stage 1 by name: uint8 images in, normalised float32 out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import torch

from stage1.augment.colour import blur, draw_jitter, grey, jitter
from stage1.augment.geometry import crop_resize, draw_boxes, draw_holes, pad_crop_flip
from stage1.data.images import Preprocessing

BLUR_FROM = 64
"""Pixels of the shorter side from which `simclr` blurs."""


def augment(
    images: torch.Tensor, preprocessing: Preprocessing, *, generator: torch.Generator
) -> torch.Tensor:
    """Change each image at random as `preprocessing.augmentation` says, and normalise.

    Parameters
    ----------
    images
        [B, C, H, W] uint8, left as they are; all but ``standard``, ``none`` and ``cutout`` need C
        to be 1 or 3.
    generator
        On the device of the images; draws every choice, for each image separately.

    Returns
    -------
    [B, C, H, W] float32
    """
    return AUGMENTATIONS[preprocessing.augmentation](images, preprocessing, generator)


def augmented(
    images: torch.Tensor, preprocessing: Preprocessing, *, generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """Apply `augment` once for each name of `preprocessing.augmentation`: input of the branches.

    One batch is for all branches, E batches are one for each.
    """
    return tuple(
        augment(images, replace(preprocessing, augmentation=name), generator=generator)
        for name in names_of(preprocessing)
    )


def names_of(preprocessing: Preprocessing) -> list[str]:
    """The augmentations that ``standard+cutout`` names."""
    return preprocessing.augmentation.split("+")


def normalise(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Subtract the channel mean and divide by the channel deviation.

    Parameters
    ----------
    images
        [B, C, H, W] in 0…255, uint8 or float32.

    Returns
    -------
    [B, C, H, W] float32
    """
    mean, std = _moments(preprocessing.mean, preprocessing.std, images.device)
    return (images.float() - mean) / std


@lru_cache
def _moments(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as [1, C, 1, 1], cached on the device: a copy from the host would stall a GPU."""
    both = torch.tensor([mean, std], device=device).view(2, 1, -1, 1, 1)
    return both[0], both[1]


def none(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """Normalise only."""
    return normalise(images, preprocessing)


def standard(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """Pad, crop back, mirror."""
    return normalise(_cropped(images, preprocessing, generator), preprocessing)


def cutout(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """`standard`, then Cutout [DeVries & Taylor 2017]: 0 in a square of half the shorter side.

    That is 16×16 of CIFAR's 32×32, their choice for CIFAR-10; 0 is the mean after normalisation.
    """
    return _cut(standard(images, preprocessing, generator), generator)


def autoaugment(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """Pad, crop back, mirror, the CIFAR-10 policy of AutoAugment [Cubuk et al. 2019], Cutout."""
    # torchvision takes seconds to import, and only this needs it.
    from stage1.augment.policy import apply_policy, draw_policy

    images = _cropped(images, preprocessing, generator)
    B, _, H, W = images.shape
    images = apply_policy(images, draw_policy(B, (H, W), generator=generator))
    return _cut(normalise(images, preprocessing), generator)


def simclr(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """The views of SimCLR [Chen et al. 2020, app. A] at the strength usual for CIFAR.

    A crop of 0.2…1 of the area, scaled back, mirrored; with probability 0.8 brightness, contrast
    and saturation × 1 ± 0.4 and hue ± 0.1; with 0.2 grey; and with ½, from `BLUR_FROM` pixels up,
    blur of σ 0.1…2 on a tenth of the side.
    """
    B, C, H, W = images.shape
    device = images.device
    x = _resized(images, preprocessing, (0.2, 1.0), generator)
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    changed = _happens(0.8, B, generator)
    x = torch.where(changed, _jittered(x, strengths, generator), x)
    x = torch.where(_happens(0.2, B, generator), grey(x).expand(-1, C, -1, -1), x)
    if min(H, W) >= BLUR_FROM:
        sigmas = torch.empty(B, device=device).uniform_(0.1, 2.0, generator=generator)
        blurred = blur(x, sigmas, min(H, W) // 10 | 1)
        x = torch.where(_happens(0.5, B, generator), blurred, x)
    return normalise(x, preprocessing)


def resized_crop(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """As on ImageNet-LT: a crop of 0.08…1 of the area, scaled back, mirrored, colours changed.

    Brightness, contrast and saturation × 1 ± 0.4.
    """
    x = _resized(images, preprocessing, (0.08, 1.0), generator)
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    return normalise(_jittered(x, strengths, generator), preprocessing)


AUGMENTATIONS: dict[str, Callable[[torch.Tensor, Preprocessing, torch.Generator], torch.Tensor]] = {
    "standard": standard,
    "none": none,
    "cutout": cutout,
    "autoaugment": autoaugment,
    "simclr": simclr,
    "resized-crop": resized_crop,
}
"""The augmentations by name."""


def _cropped(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    return pad_crop_flip(images, preprocessing.pad, flip=preprocessing.flip, generator=generator)


def _cut(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    side = max(1, min(images.shape[2:]) // 2)
    return images.masked_fill(draw_holes(images, side, generator=generator), 0)


def _resized(
    images: torch.Tensor,
    preprocessing: Preprocessing,
    scale: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Crop and scale back; mirror with probability ½ if the preprocessing mirrors."""
    B, _, H, W = images.shape
    boxes = draw_boxes((H, W), B, scale=scale, generator=generator)
    mirrored = _happens(0.5 if preprocessing.flip else 0.0, B, generator).flatten()
    return crop_resize(images, boxes, mirrored)


def _jittered(
    images: torch.Tensor, strengths: Mapping[str, float], generator: torch.Generator
) -> torch.Tensor:
    factors, order = draw_jitter(strengths, len(images), generator=generator)
    return jitter(images, tuple(strengths), factors, order)


def _happens(probability: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """[B, 1, 1, 1] bool, each true with the probability."""
    device = generator.device
    return torch.rand(count, 1, 1, 1, generator=generator, device=device) < probability
