"""The two rounds of a halving sweep.

First every configuration trains with one seed, halved; then those left train with their other
seeds, in full, so that a mean over seeds always covers all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from featbank.bank import Bank
from featbank.bank.split import ways_to_val
from stage2.engine.halving import Halving
from stage2.engine.plan import BatchStream, FusedGroup
from stage2.methods.recipe import Recipe


def val_problem(bank: Bank) -> str | None:
    """The problem of a search on a bank without a val split; None where there is one."""
    if "val" in bank.evaluated:
        return None
    return (
        f"{bank.path} has no val split, by which a search compares. Sweep without a search, or get "
        f"one. {ways_to_val(bank)}"
    )


def by_first_seed(recipes: Sequence[Recipe]) -> tuple[list[Recipe], list[Recipe]]:
    """The first recipe of each configuration, and all others."""
    first = set({recipe.id: recipe for recipe in reversed(recipes)}.values())
    return [r for r in recipes if r in first], [r for r in recipes if r not in first]


def shares(
    halving: Halving, first: Sequence[FusedGroup], later: Sequence[FusedGroup]
) -> list[float]:
    """Share of its epochs that each group trains, 0 … 1.

    Parameters
    ----------
    halving
        The rule.
    first
        Groups of the first seed, which are halved.
    later
        Groups of the other seeds of the configurations in `first`, of which as many train as are
        left, whichever they are.
    """
    parts, configs_of, left = [], Counter[BatchStream](), Counter[BatchStream]()
    for group in first:
        configs, epochs = len(group.recipes), group.stream.epochs
        parts.append(halving.share(configs, epochs) if epochs else 1.0)
        configs_of[_seedless(group)] += configs
        left[_seedless(group)] += halving.counts(configs, epochs)[-1] if epochs else configs
    return parts + [left[_seedless(group)] / configs_of[_seedless(group)] for group in later]


def others_left(halving: Halving, groups: Sequence[FusedGroup], others: Sequence[Recipe]) -> int:
    """Number of the `others` that train if halving leaves as many of `groups` as it may."""
    seeds = Counter(recipe.id for recipe in others)
    left = 0.0
    for group in groups:
        configs, epochs = len(group.recipes), group.stream.epochs
        remaining = halving.counts(configs, epochs)[-1] if epochs else configs
        left += sum(seeds[recipe.id] for recipe in group.recipes) * remaining / configs
    return round(left)


def _seedless(group: FusedGroup) -> BatchStream:
    return replace(group.stream, seed=0)
