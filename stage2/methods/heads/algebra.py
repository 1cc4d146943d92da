"""Products and gathers shared by heads, for C configurations at once.

Features are [B, D], or [B, C, D] where they differ between configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stage2.methods.on_demand import torch
from stage2.methods.precision import product

if TYPE_CHECKING:
    from torch import Tensor

GATHER_BYTES = 1 << 20
"""Bytes of weight rows that `target_cosines` gathers at once on a CPU; 16 times that on a GPU."""


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b for every configuration, [B, C, K], from W [C, K, D] and b [C, K].

    Features [B, D] take one product with the stacked rows of all W, features [B, C, D] a batched
    product.
    """
    if x.dim() == 3:
        shift = None if bias is None else bias[:, None]
        z = product(x.transpose(0, 1), weight.transpose(1, 2), shift)
        return z.transpose(0, 1).contiguous()
    configs, classes, dim = weight.shape
    flat = weight.view(configs * classes, dim).t()
    z = product(x, flat, None if bias is None else bias.view(-1))
    return z.view(len(x), configs, classes)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """∂L/∂W of `project`, [C, K, D], from `grad` [B, C, K]."""
    if x.dim() == 3:
        return product(grad.permute(1, 2, 0), x.transpose(0, 1))
    rows, configs, classes = grad.shape
    return product(grad.view(rows, configs * classes).t(), x).view(configs, classes, x.shape[1])


def broadcast(x: Tensor) -> Tensor:
    """Features as [B, 1, D] or [B, C, D]."""
    return x if x.dim() == 3 else x[:, None]


def target_cosines(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """cos(x_b, w_k) with k = y_b, in blocks of bounded memory.

    Parameters
    ----------
    x
        Features [B, D] or [B, C, D].
    weight
        [C, K, D], or [1, K, D] where all configurations share it.
    y
        Labels [B].

    Returns
    -------
    [B, C], or [B, 1] where configurations share both features and weight.
    """
    x = broadcast(x).transpose(0, 1)
    row_bytes = x.element_size() * max(len(x), len(weight)) * x.shape[2]
    size = max(1, GATHER_BYTES * (16 if x.is_cuda else 1) // row_bytes)
    parts = [
        torch.nn.functional.cosine_similarity(
            rows, weight.index_select(1, labels), dim=2, eps=1e-12
        )
        for rows, labels in zip(x.split(size, 1), y.split(size), strict=True)
    ]
    return torch.cat(parts, 1).t()


def target_logits(z: Tensor, y: Tensor) -> Tensor:
    """z_y [B, C], the logits of the labels y [B], from z [B, C, K]."""
    return z.gather(2, y.view(-1, 1, 1).expand(-1, z.shape[1], 1)).squeeze(2)


def cosines_of_logits(
    z: Tensor, y: Tensor, lengths: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """cos(x, w_y) [B, C] from logits z = Wx + b [B, C, K]: (z_y − b_y)/(‖x‖·‖w_y‖), in [−1, 1].

    Parameters
    ----------
    lengths
        ‖x‖, [B, C] or [B, 1].
    weight, bias
        [C, K, D] and [C, K].
    """
    lengths = (lengths * weight.norm(dim=2).t()[y]).clamp_min_(1e-12)
    return (target_logits(z, y) - bias.t()[y]).div_(lengths).clamp_(-1, 1)


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Values [C] as a float tensor on the device of `like`."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)
