"""Transforms of features before comparison, and the ranking of classes without samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stage2.methods.heads.interface import Context, Settings
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

TRANSFORMS = {
    "un": "identity",
    "l2n": "unit length",
    "cl2n": "centred on the mean of all training rows, then unit length",
}
"""Every transform [cRT §4.1] by name."""

EMPTY_MARGIN = 100.0
"""Distance of the logit of a class without samples below the smallest other: e^−100 is negligible,
and a likelihood stays finite."""


def transformed(x: Tensor, name: str, center: Tensor) -> Tensor:
    """Apply the transform `name` to rows `x` [n, D]; `center` [D] is a row of `centers`."""
    if name == "un":
        return x
    return torch.nn.functional.normalize(x - center if name == "cl2n" else x, dim=1)


def centers(settings: Sequence[Settings], context: Context) -> Tensor:
    """Offsets [C, D] that each ``transform`` subtracts: the mean of the training rows, or 0."""
    centered = torch.tensor([s["transform"] == "cl2n" for s in settings], device=context.device)
    offsets = torch.zeros(len(settings), context.dim, device=context.device)
    if centered.any():
        offsets[centered] = context.mean
    return offsets


def rank_empty_last(z: Tensor, empty: Tensor) -> Tensor:
    """Put the logits of `empty` classes [C, K] bool below all others in `z` [B, C, K]."""
    lowest = z.masked_fill(empty, torch.inf).amin(2, keepdim=True)
    return torch.where(empty, lowest - EMPTY_MARGIN, z)
