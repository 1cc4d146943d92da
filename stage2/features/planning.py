"""The plan of a sweep on a bank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache

import torch

from featbank.bank import Bank
from stage2.engine.plan import BatchStream, FusedGroup, Shape, plan
from stage2.engine.work import group_work, spread
from stage2.features.budgets import group_memory, half_of
from stage2.features.folds import fold_counts
from stage2.features.loading import class_counts
from stage2.features.probe import PROBE, probes_of
from stage2.features.requirements import check_in_memory
from stage2.methods.recipe import Recipe


def plan_bank(
    bank: Bank,
    recipes: Sequence[Recipe],
    *,
    device: str = "cpu",
    memory: int | None = None,
    workers: int = 1,
    folds: int | None = None,
    count: int = 1,
) -> list[FusedGroup]:
    """The plan of a sweep on a bank, or on folds of it, for `count` groups that train at once;
    groups on the same views are adjacent.

    Raises
    ------
    ConfigError
        Where the budget is too small for a recipe, or for the probe it starts from.
    """
    kind = torch.device(device).type
    if probes := probes_of(bank, recipes):
        dim = max(bank.dim_of(probe.view) for probe in probes)
        shape = Shape.of(class_counts(bank, "train"), dim)
        plan([PROBE], shape, memory=half_of(memory, device), whole=memory, device=kind)
    sizes: dict[tuple[str, int, int], list[Recipe]] = {}
    for recipe in recipes:
        key = recipe.settings["train_on"], *_width(bank, recipe.views)
        sizes.setdefault(key, []).append(recipe)
    groups = []
    of_folds = fold_counts(bank, folds) if folds else []
    for (split, *width), members in sizes.items():
        shape = Shape.of(class_counts(bank, split), *width)
        for views in {recipe.views: None for recipe in members if recipe.generator}:
            check_in_memory(bank, views, device, memory, split, folded=bool(folds))
        groups += plan(
            members,
            shape,
            memory=group_memory(bank, members, device, memory, split, folded=bool(folds)),
            whole=memory,
            device=kind,
            workers=workers,
            folds=[Shape.of(counts, *width) for counts in of_folds],
        )
    return spread(sorted(groups, key=_features_of), count, work_on(bank))


def work_on(bank: Bank) -> Callable[[FusedGroup], float]:
    """The work of a group on a bank in floating-point operations, roughly, on any machine."""
    evaluated, shape = sum(map(bank.rows, bank.evaluated)), shapes_on(bank)
    return lambda group: group_work(group, shape(group.stream), evaluated)


def shapes_on(bank: Bank) -> Callable[[BatchStream], Shape]:
    """The shape of what a stream trains on."""

    @cache
    def shape(split: str, dim: int, tokens: int) -> Shape:
        return Shape.of(class_counts(bank, split), dim, tokens)

    return lambda stream: shape(stream.train_on, *_width(bank, stream.views))


def _width(bank: Bank, views: Sequence[str]) -> tuple[int, int]:
    """Numbers of a row of the widest view, and of how many tokens."""
    return max((bank.dim_of(view), bank.tokens(view) or 1) for view in views)


def unfinished(
    planned: Callable[[Sequence[Recipe]], list[FusedGroup]],
    wanted: Sequence[Recipe],
    finished: Collection[str],
) -> list[FusedGroup]:
    """The groups of a sweep that are still to run, without the recipes whose hashes are `finished`.

    They are cut as if nothing had run yet, so that a resumed sweep, and a shard, fuse the same
    recipes as a whole one and end with the same numbers to the last bit. Tiles stay as they are;
    only the rest of those of which another sweep trained a part is planned anew.
    """
    fresh, left = [], []
    for group in planned(wanted):
        waiting = [[r for r in tile.recipes if r.hash not in finished] for tile in group.tiles]
        pairs = list(zip(group.tiles, waiting, strict=True))
        if whole := tuple(tile for tile, rest in pairs if len(rest) == len(tile.recipes)):
            fresh.append(replace(group, tiles=whole))
        left += [r for tile, rest in pairs if len(rest) < len(tile.recipes) for r in rest]
    return fresh + planned(left)


def _features_of(group: FusedGroup) -> tuple[tuple[str, ...], str, str, float]:
    """The features of a group, which are loaded once for the groups of a sweep that share them, and
    their classifier."""
    stream = group.stream
    return stream.views, stream.train_on, stream.feature_scale or "", stream.cosine_scale or 0.0
