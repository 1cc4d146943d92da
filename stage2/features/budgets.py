"""Shares of a sweep's memory: the features of a bank, and a fused group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from featbank.bank import Bank
from stage2.engine.generation import window_bytes
from stage2.engine.plan import default_memory
from stage2.engine.rows import CONVERTED_BYTES, converted_rows
from stage2.methods.recipe import Recipe

PACKED_SHARE = 8
"""Features of float16 that take less than this part of the budget as float32 are float32: for a
single configuration converting every batch costs a tenth."""

MADE = 3
"""Memory of the rows that a generator makes at once, as a multiple of these: AFG holds a base and a
direction of some, and the products of which they are sums."""


def view_budget(
    bank: Bank,
    view: str,
    *,
    device: str = "cpu",
    memory: int | None = None,
    train_on: str = "train",
    folded: bool = False,
) -> dict[str, int | None]:
    """Bytes of features that each split of a view may hold in memory; None where all of them fit.

    Half of `memory` is for features. The other splits together get at most a quarter of that half;
    training, which rereads its features every epoch, gets the rest. `folded` training features
    fit where a copy of them, cut to a fold, does so as well.
    """
    left = half_of(memory, device)
    spare = left // 4
    budgets: dict[str, int | None] = {}
    for split in (*bank.evaluated, train_on):
        size = view_bytes(bank, split, view) * (1 + (folded and split == train_on))
        fits = size <= (left if split == train_on else spare)
        budgets[split] = None if fits else left
        if fits:
            left, spare = left - size, spare - size
    return budgets


def view_bytes(bank: Bank, split: str, view: str) -> int:
    """Bytes that the features of a split and view, all copies, take as float32."""
    return 4 * math.prod(bank.shape(split, view))


def packable(
    bank: Bank, split: str, view: str, *, device: str = "cpu", memory: int | None = None
) -> bool:
    """Whether features stored as float16 stay so in memory: where as float32 they would take more
    than 1/`PACKED_SHARE` of the budget."""
    share = (memory or default_memory(device)) // PACKED_SHARE
    return bank.dtype_of(view) == "float16" and view_bytes(bank, split, view) > max(
        CONVERTED_BYTES, share
    )


def held_bytes(bank: Bank, split: str, view: str, packed: bool) -> int:
    """Bytes that they take where they are in memory; `packed` ones take half, and up to three
    blocks of them that are being converted."""
    size = view_bytes(bank, split, view)
    if not packed:
        return size
    dim = bank.dim_of(view)
    return size // 2 + 3 * max(CONVERTED_BYTES, 4 * dim * converted_rows(dim))


def half_of(memory: int | None, device: str) -> int:
    """Half of the budget in bytes: one half is for features, the other for a fused group."""
    return (memory or default_memory(device)) // 2


def group_memory(
    bank: Bank,
    recipes: Sequence[Recipe],
    device: str,
    memory: int | None,
    train_on: str,
    *,
    folded: bool = False,
) -> int:
    """Bytes for a fused group of any of the recipes: half of the budget; on a GPU, where they
    decide how many configurations share a product, also what features leave of the other half."""
    whole = memory or default_memory(device)
    if torch.device(device).type == "cpu":
        return whole // 2
    left = [whole]
    for names in {recipe.views: None for recipe in recipes}:
        held = 4 * len(names) * math.prod(bank.shape(train_on, names[0])[:2]) * bank.num_classes
        for name in names:  # beside them the stage-1 logits of training rows
            budgets = view_budget(
                bank,
                name,
                device=device,
                memory=whole // len(names),
                train_on=train_on,
                folded=folded,
            )
            held += sum(
                budget or view_bytes(bank, split, name) * (1 + (folded and split == train_on))
                for split, budget in budgets.items()
            )
        if any(recipe.generator for recipe in recipes):
            held += MADE * window_bytes("cuda")
        left.append(whole - held)
    return max(whole // 2, min(left))
