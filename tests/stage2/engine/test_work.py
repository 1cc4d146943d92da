"""The work of groups, and groups cut by it: every tile whole and once, no part too large."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import Bank
from stage2.engine.plan import FusedGroup, Shape, plan
from stage2.engine.work import CALL_FLOPS, group_work, spread
from stage2.features.planning import plan_bank
from stage2.methods.recipe import Recipe, expand

SHAPE = Shape(rows=1000, dim=16, classes=10)


def _groups(grid: dict[str, dict[str, list]], folds: int = 0) -> list[FusedGroup]:
    """Groups of many small tiles."""
    recipes = expand(grid, seeds=(0, 1))
    return plan(recipes, SHAPE, memory=1 << 30, workers=8, folds=[SHAPE] * folds)


def test_the_work_of_a_group_by_hand() -> None:
    """Reference: 4 operations per parameter and row, 30 for a logit and for its gradient, an
    overhead per tile and step; folds cost as many groups, two views twice as much."""
    recipe = Recipe("crt", epochs=3, steps_per_epoch=5, batch_size=32)
    (group,) = plan([recipe], SHAPE, memory=1 << 30)
    linear = 4 * 16 * 10 + 30 * 2 * 10
    expected = 15 * (32 * linear + CALL_FLOPS)
    assert group_work(group, SHAPE, 200) == expected
    (folded,) = plan([recipe], SHAPE, memory=1 << 30, folds=[SHAPE] * 4)
    assert group_work(folded, SHAPE, 200) == 4 * expected
    twice = replace(group, stream=replace(group.stream, views=("instance", "balanced")))
    assert group_work(twice, SHAPE, 200) == 15 * (2 * 32 * linear + CALL_FLOPS)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_every_tile_is_whole_and_there_once(count: int, epochs: list[int]) -> None:
    """Reference: the groups that were cut; a part is larger than half of a worker's share by less
    than its smallest tile, or is a single one."""
    groups = _groups({"crt": {"epochs": epochs, "lr": [0.1, 0.2]}, "lws": {}, "ncm": {}})

    def work(group: FusedGroup) -> float:
        return group_work(group, SHAPE, 100)

    parts = spread(groups, count, work)
    assert [g.stream for g in parts] == sorted(
        (g.stream for g in parts), key=[g.stream for g in groups].index
    )
    tiles = [tile for group in groups for tile in group.tiles]
    assert sorted(map(repr, tiles)) == sorted(repr(t) for g in parts for t in g.tiles)
    if count == 1:
        assert parts == groups
        return
    most = sum(map(work, groups)) / (2 * count)
    for part in parts:
        smallest = min(work(replace(part, tiles=(tile,))) for tile in part.tiles)
        assert len(part.tiles) == 1 or work(part) < most + smallest + 1


def test_a_small_group_stays_whole() -> None:
    """Reference: by hand: of works 8, 8 and 1 on two workers, 17/4 is the most of a part."""
    groups = _groups({"crt": {"epochs": [1, 2, 3], "lr": [0.1, 0.2, 0.3, 0.4]}})[:3]
    works = dict(zip((g.stream for g in groups), (8.0, 8.0, 1.0), strict=True))
    tiles = [len(group.tiles) for group in groups]
    parts = spread(groups, 2, lambda g: works[g.stream] * len(g.tiles) / tiles[0])
    assert [sum(p.stream == g.stream for p in parts) for g in groups] == [2, 2, 1]


@pytest.mark.parametrize("folds", [None, 3])
def test_a_plan_for_several_workers(bank: Bank, folds: int | None) -> None:
    """Reference: the plan for one, cut; a group of one tile stays."""
    recipes = expand({"crt": {"lr": [0.1, 0.2, 0.3, 0.4]}, "cosine": {}, "ncm": {}})
    one = plan_bank(bank, recipes, workers=2, folds=folds)
    several = plan_bank(bank, recipes, workers=2, folds=folds, count=4)
    assert len(several) > len(one)
    assert {r for g in several for r in g.recipes} == set(recipes)
    assert {g.folds for g in several} == {g.folds for g in one}
