"""Augmentation of whole batches where they live: uint8 images in, normalised float32 out."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from stage1.images import Preprocessing


def normalise(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Subtract the channel mean and divide by the channel deviation.

    Parameters
    ----------
    images
        [B, C, H, W] uint8.

    Returns
    -------
    [B, C, H, W] float32
    """
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, -1, 1, 1)
    return (images.float() - mean) / std


def augment(
    images: torch.Tensor, preprocessing: Preprocessing, *, generator: torch.Generator
) -> torch.Tensor:
    """Pad, crop back and mirror each image at random, then normalise.

    Parameters
    ----------
    images
        [B, C, H, W] uint8.
    generator
        On the device of the images.

    Returns
    -------
    [B, C, H, W] float32
    """
    return normalise(
        pad_crop_flip(images, preprocessing.pad, flip=preprocessing.flip, generator=generator),
        preprocessing,
    )


def pad_crop_flip(
    images: torch.Tensor, pad: int, *, flip: bool, generator: torch.Generator
) -> torch.Tensor:
    """Pad with black, crop back at a random place, and mirror with probability ½ if `flip`.

    Every image draws its own place. The whole batch is one gather: output pixel (i, j) of image b
    is padded pixel (i + dy_b, j + dx_b), with j running backwards where b is mirrored.

    Parameters
    ----------
    images
        [B, C, H, W] of any type.
    pad
        Pixels ≥ 0 on each side.
    generator
        On the device of the images.

    Returns
    -------
    [B, C, H, W] of the same type
    """
    B, C, H, W = images.shape
    device = images.device
    dy, dx = torch.randint(2 * pad + 1, (2, B, 1), generator=generator, device=device)
    rows = dy + torch.arange(H, device=device)  # [B, H]
    columns = dx + torch.arange(W, device=device)  # [B, W]
    if flip:
        mirrored = torch.rand(B, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (pad, pad, pad, pad))
    image = torch.arange(B, device=device).view(B, 1, 1, 1)
    channel = torch.arange(C, device=device).view(1, C, 1, 1)
    return padded[image, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)]


def mixup(
    images: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    *,
    generator: torch.Generator,
    weights: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Blend every image with another of its batch [mixup §2]: λx_i + (1−λ)x_j, one λ per batch.

    Parameters
    ----------
    images, labels
        [B, C, H, W] float and [B] int64.
    alpha
        λ ~ Beta(α, α), α > 0.
    generator
        Draws the partners j, a permutation of the batch.
    weights
        Draws λ (torch's own Beta takes no generator).

    Returns
    -------
    The blended images, the labels [B] of the partners, and λ. The loss is
    λ·loss(y_i) + (1−λ)·loss(y_j).
    """
    share = float(weights.beta(alpha, alpha))
    partner = torch.randperm(len(images), generator=generator, device=images.device)
    return torch.lerp(images[partner], images, share), labels[partner], share
