"""Blends of the images of a batch."""

from __future__ import annotations

import numpy as np
import torch


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
