"""What features go through before they are compared, and the class that is never named."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stage2.methods.heads.interface import Context, Settings

TRANSFORMS = {
    "un": "nothing",
    "l2n": "length 1",
    "cl2n": "less the mean of all training rows, then length 1",
}
"""Every transform [cRT §4.1] by name."""

EMPTY_BEHIND = 100.0
"""How far the logit of a class without samples lies behind the furthest other: e^−100 is nothing,
and a likelihood stays finite."""


def transformed(x: Tensor, name: str, center: Tensor) -> Tensor:
    """Rows `x` [n, D] through the transform `name`; `center` [D] is its row of `centers`."""
    if name == "un":
        return x
    return normalize(x - center if name == "cl2n" else x, dim=1)


def centers(settings: Sequence[Settings], context: Context) -> Tensor:
    """What each setting ``transform`` subtracts, [C, D]: the mean of the training rows, or 0."""
    centered = torch.tensor([s["transform"] == "cl2n" for s in settings], device=context.device)
    found = torch.zeros(len(settings), context.dim, device=context.device)
    if centered.any():
        found[centered] = context.mean
    return found


def empty_behind(z: Tensor, empty: Tensor) -> Tensor:
    """Logits `z` [B, C, K] with those of `empty` classes [C, K] bool behind all others."""
    furthest = z.masked_fill(empty, torch.inf).amin(2, keepdim=True)
    return torch.where(empty, furthest - EMPTY_BEHIND, z)
