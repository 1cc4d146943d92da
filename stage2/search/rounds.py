"""What a halving sweep trains, in two rounds.

First every configuration with one seed, halved; then what is left with its other seeds, in full: a
mean over seeds is never one over some of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from featbank.bank import Bank
from stage2.engine.halving import Halving
from stage2.engine.plan import BatchStream, FusedGroup
from stage2.methods.recipe import Recipe


def val_problem(bank: Bank) -> str | None:
    """What is wrong where a search has no val to go by; None where it has."""
    if "val" in bank.evaluated:
        return None
    return (
        f"{bank.path} has no val split, by which a search compares. Hold one out with "
        "`featbank split --val-fraction 0.2`, or sweep without a search."
    )


def by_first_seed(recipes: Sequence[Recipe]) -> tuple[list[Recipe], list[Recipe]]:
    """Of each configuration the first recipe, and all others."""
    first = set({recipe.id: recipe for recipe in reversed(recipes)}.values())
    return [r for r in recipes if r in first], [r for r in recipes if r not in first]


def shares(
    halving: Halving, first: Sequence[FusedGroup], later: Sequence[FusedGroup]
) -> list[float]:
    """What part of its epochs each group trains, 0 … 1.

    Parameters
    ----------
    halving
        The rule.
    first
        Groups of the first seed, which are halved.
    later
        Groups of the other seeds of configurations of `first`: of these train as many as are left,
        whichever they are.
    """
    found, there, left = [], Counter[BatchStream](), Counter[BatchStream]()
    for group in first:
        configs, epochs = len(group.recipes), group.stream.epochs
        found.append(halving.share(configs, epochs) if epochs else 1.0)
        there[_seedless(group)] += configs
        left[_seedless(group)] += halving.counts(configs, epochs)[-1] if epochs else configs
    return found + [left[_seedless(group)] / there[_seedless(group)] for group in later]


def others_left(halving: Halving, groups: Sequence[FusedGroup], others: Sequence[Recipe]) -> int:
    """How many of the `others` train, where halving leaves of `groups` as many as it may."""
    each = Counter(recipe.id for recipe in others)
    left = 0.0
    for group in groups:
        configs, epochs = len(group.recipes), group.stream.epochs
        remaining = halving.counts(configs, epochs)[-1] if epochs else configs
        left += sum(each[recipe.id] for recipe in group.recipes) * remaining / configs
    return round(left)


def _seedless(group: FusedGroup) -> BatchStream:
    return replace(group.stream, seed=0)
