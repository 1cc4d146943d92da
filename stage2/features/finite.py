"""Features that are NaN or infinite, which checksums do not detect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from featbank.bank import Bank
from featbank.bank.checks import check_finite
from stage2.methods.recipe import Recipe


def check_features(bank: Bank, recipes: Sequence[Recipe]) -> set[tuple[str, str]]:
    """Check all features that recipes are to be trained and measured on.

    Returns
    -------
    Their splits and views.

    Raises
    ------
    NotFinite
        Where one is NaN or infinite.
    """
    used: dict[tuple[str, str], None] = {}
    for recipe in recipes:
        for split in (*bank.evaluated, recipe.settings["train_on"]):
            used |= {(split, view): None for view in recipe.views}
    for split, view in used:
        refuse_not_finite(bank, split, view)
    return set(used)


def all_finite(x: Tensor) -> bool:
    """Whether all of `x` is finite, without allocating a mask of its size."""
    return not x.numel() or all(math.isfinite(end) for end in map(float, x.aminmax()))


def refuse_not_finite(bank: Bank, split: str, view: str) -> None:
    """Read the features of a split and view; raise at the first that is not finite."""
    for copy in range(bank.copies(split, view)):
        name = f"{bank.path}: {split}/{view}, copy {copy}"
        for start, block in bank.blocks(split, view, copy=copy):
            if not all_finite(torch.from_numpy(block)):
                check_finite(block, name, first_row=start)
