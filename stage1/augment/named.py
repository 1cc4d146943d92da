"""The augmentations of stage 1 by name: uint8 images in, normalised float32 out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch

from stage1.augment.colour import blur, draw_jitter, grey, jitter
from stage1.augment.geometry import crop_resize, draw_boxes, draw_holes, pad_crop_flip
from stage1.data.images import Preprocessing

BLUR_FROM = 64
"""Pixels of the shorter side from which `simclr` blurs."""


def augment(
    images: torch.Tensor,
    preprocessing: Preprocessing,
    *,
    generator: torch.Generator,
    cut: bool = False,
) -> torch.Tensor:
    """Change each image at random as `preprocessing.augmentation` says, and normalise.

    Parameters
    ----------
    images
        [B, C, H, W] uint8, left as they are; all but ``standard``, ``none`` and ``cutout`` need C
        to be 1 or 3.
    generator
        On the device of the images; draws every choice, for each image separately.
    cut
        Whether the crop, where the augmentation has one, was taken from the original already.

    Returns
    -------
    [B, C, H, W] float32
    """
    augmentation = AUGMENTATIONS[preprocessing.augmentation]
    return augmentation(images, preprocessing, generator, cut=cut)


def augmented(
    images: torch.Tensor, preprocessing: Preprocessing, *, generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """Apply `augment` once for each name of `preprocessing.augmentation`: input of the branches.

    One batch is for all branches, E batches are one for each.

    Parameters
    ----------
    images
        [B, C, H, W] uint8 for all names, or a view for each, [B, E, C, H, W], cut from originals
        by `stage1.augment.originals`.
    """
    names = names_of(preprocessing.augmentation)
    cut = images.ndim == 5
    views = images.unbind(1) if cut else [images] * len(names)
    return tuple(
        augment(view, replace(preprocessing, augmentation=name), generator=generator, cut=cut)
        for name, view in zip(names, views, strict=True)
    )


def names_of(augmentation: str) -> list[str]:
    """The augmentations that ``standard+cutout`` names."""
    return augmentation.split("+")


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


@dataclass(frozen=True)
class Augmentation:
    """A crop and a mirror, then a change of what is left, which normalises as well.

    Attributes
    ----------
    change
        Of images [B, C, H, W], uint8 or float32 in 0…255; returns float32.
    area
        Shares of the area that a RandomResizedCrop keeps, of the original where images are cut from
        originals as they are decoded (`stage1.augment.originals`); None for no such crop.
    padded
        Without `area`: whether images are padded, cropped back and mirrored.
    """

    change: Callable[[torch.Tensor, Preprocessing, torch.Generator], torch.Tensor]
    area: tuple[float, float] | None = None
    padded: bool = False

    def __call__(
        self,
        images: torch.Tensor,
        preprocessing: Preprocessing,
        generator: torch.Generator,
        *,
        cut: bool = False,
    ) -> torch.Tensor:
        """Apply it to uint8 images, of which with `cut` the `area` is cut already."""
        if self.area and cut:
            images = _mirrored(images, preprocessing, generator)
        elif self.area:
            images = _resized(images, preprocessing, self.area, generator)
        elif self.padded:
            pad, flip = preprocessing.pad, preprocessing.flip
            images = pad_crop_flip(images, pad, flip=flip, generator=generator)
        return self.change(images, preprocessing, generator)


def plain(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """Normalise only."""
    return normalise(images, preprocessing)


def cutout(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """Cutout [DeVries & Taylor 2017]: 0 in a square of half the shorter side.

    That is 16×16 of CIFAR's 32×32, their choice for CIFAR-10; 0 is the mean after normalisation.
    """
    images = normalise(images, preprocessing)
    side = max(1, min(images.shape[2:]) // 2)
    return images.masked_fill(draw_holes(images, side, generator=generator), 0)


def cifar_policy(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """The CIFAR-10 policy of AutoAugment [Cubuk et al. 2019]."""
    return normalise(_by_policy(images, "CIFAR10", generator), preprocessing)


def imagenet_policy(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """The ImageNet policy of AutoAugment [Cubuk et al. 2019]."""
    return normalise(_by_policy(images, "IMAGENET", generator), preprocessing)


def cifar_policy_cutout(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """The CIFAR-10 policy, then Cutout."""
    return cutout(_by_policy(images, "CIFAR10", generator), preprocessing, generator)


def simclr(
    images: torch.Tensor,
    preprocessing: Preprocessing,
    generator: torch.Generator,
    *,
    blur_from: int = BLUR_FROM,
) -> torch.Tensor:
    """The colours of SimCLR's views [Chen et al. 2020, app. A] at the strength usual for CIFAR.

    With probability 0.8 brightness, contrast and saturation × 1 ± 0.4 and hue ± 0.1; with 0.2
    grey; and with ½, from `blur_from` pixels up, blur of σ 0.1…2 on a tenth of the side.
    """
    B, C, H, W = images.shape
    device = images.device
    x = images.float()
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    changed = _happens(0.8, B, generator)
    x = torch.where(changed, _jittered(x, strengths, generator), x)
    x = torch.where(_happens(0.2, B, generator), grey(x).expand(-1, C, -1, -1), x)
    if min(H, W) >= blur_from:
        sigmas = torch.empty(B, device=device).uniform_(0.1, 2.0, generator=generator)
        blurred = blur(x, sigmas, min(H, W) // 10 | 1)
        x = torch.where(_happens(0.5, B, generator), blurred, x)
    return normalise(x, preprocessing)


def colours(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """Brightness, contrast and saturation × 1 ± 0.4, as on ImageNet-LT."""
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    return normalise(_jittered(images.float(), strengths, generator), preprocessing)


AUGMENTATIONS: dict[str, Augmentation] = {
    "standard": Augmentation(plain, padded=True),
    "none": Augmentation(plain),
    "cutout": Augmentation(cutout, padded=True),
    "autoaugment": Augmentation(cifar_policy_cutout, padded=True),
    "autoaugment-cifar": Augmentation(cifar_policy, padded=True),
    "autoaugment-imagenet": Augmentation(imagenet_policy, area=(0.08, 1.0)),
    "simclr": Augmentation(simclr, area=(0.2, 1.0)),
    "simclr-blur": Augmentation(partial(simclr, blur_from=1), area=(0.2, 1.0)),
    "resized-crop": Augmentation(colours, area=(0.08, 1.0)),
    "resized-flip": Augmentation(plain, area=(0.08, 1.0)),
}
"""The augmentations by name."""


def _by_policy(images: torch.Tensor, name: str, generator: torch.Generator) -> torch.Tensor:
    """Images [B, C, H, W] uint8 changed by a policy of AutoAugment."""
    # torchvision takes seconds to import, and only this needs it.
    from stage1.augment.policy import apply_policy, draw_policy

    if images.dtype != torch.uint8:
        images = images.round().to(torch.uint8)
    B, _, H, W = images.shape
    return apply_policy(images, draw_policy(B, (H, W), policy=name, generator=generator))


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


def _mirrored(
    images: torch.Tensor, preprocessing: Preprocessing, generator: torch.Generator
) -> torch.Tensor:
    """Mirror with probability ½ if the preprocessing mirrors."""
    mirrored = _happens(0.5 if preprocessing.flip else 0.0, len(images), generator)
    return torch.where(mirrored, images.flip(3), images)


def _jittered(
    images: torch.Tensor, strengths: Mapping[str, float], generator: torch.Generator
) -> torch.Tensor:
    factors, order = draw_jitter(strengths, len(images), generator=generator)
    return jitter(images, tuple(strengths), factors, order)


def _happens(probability: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """[B, 1, 1, 1] bool, each true with the probability."""
    device = generator.device
    return torch.rand(count, 1, 1, 1, generator=generator, device=device) < probability
