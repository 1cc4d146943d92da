"""The planner: shared streams, budgets, equal pieces; every recipe exactly once [DESIGN]."""

from __future__ import annotations

import re
from threading import Event

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import errors
from stage2.engine.loop import run_group
from stage2.engine.native.library import SWITCH, library
from stage2.engine.plan import GROUP_CONFIGS, BatchStream, FusedGroup, Shape, TileKey, plan
from stage2.engine.rows import Window
from stage2.engine.tile import TileRun
from stage2.methods.heads import Context
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from tests.stage2.synthetic import Problem, group_stream, groups_of

SHAPE = Shape(rows=1000, dim=16, classes=10)
GIB = 1 << 30
_PLAIN = [name for name, preset in PRESETS.items() if not preset.variant]

_RECIPES = st.lists(
    st.builds(
        lambda name, lr, seed, batch, momentum: (
            Recipe(
                name,
                lr=lr,
                seed=seed,
                batch_size=batch,
                momentum=momentum,
                **({"hidden": 8} if name == "mlp" else {}),
            )
            if "momentum" in Recipe(name).settings
            else Recipe(name)
        ),
        st.sampled_from(_PLAIN),
        st.sampled_from([0.01, 0.1, 1.0]),
        st.integers(0, 2),
        st.sampled_from([16, 64, 2000]),
        st.sampled_from([0.0, 0.5, 0.9]),
    ),
    max_size=120,
)


def _sizes(group: FusedGroup) -> dict[TileKey, list[int]]:
    """Tile sizes by kind."""
    found: dict[TileKey, list[int]] = {}
    for tile in group.tiles:
        found.setdefault(tile.key, []).append(len(tile.recipes))
    return found


@settings(max_examples=60, deadline=None)
@given(_RECIPES, st.sampled_from([1, 2, 3, 8]), st.sampled_from([1_000_000, 4_000_000, GIB]))
def test_every_recipe_exactly_once_and_only_with_its_stream(
    recipes: list[Recipe], workers: int, memory: int
) -> None:
    """Reference: the definition of a plan, on random sweeps (hypothesis)."""
    if any(recipe.generator for recipe in recipes):
        memory = max(memory, 2_000_000)  # features of its own are more than the least budget
    groups = plan(recipes, SHAPE, memory=memory, workers=workers)
    planned = [recipe for group in groups for recipe in group.recipes]
    assert len(planned) == len(set(planned)), "a recipe is planned twice"
    assert set(planned) == set(recipes), "planned recipes are not those of the sweep"
    for group in groups:
        assert len(group.recipes) <= GROUP_CONFIGS, f"got {len(group.recipes)} in a group"
        streams = {BatchStream.of(recipe, SHAPE) for recipe in group.recipes}
        assert streams == {group.stream}, f"got streams {streams} in the group of {group.stream}"
        for tile in group.tiles:
            kinds = {TileKey.of(recipe) for recipe in tile.recipes}
            assert kinds == {tile.key}, f"got {kinds} in one tile"
        for kind, sizes in _sizes(group).items():
            assert max(sizes) - min(sizes) <= 1, f"{kind}: got tiles of {sizes}, expected equal"
            if 1 < len(sizes) < sum(sizes):
                assert len(sizes) % workers == 0, f"{kind}: got {sizes} for {workers} workers"


def test_what_a_group_shares() -> None:
    """Reference: DESIGN, view, sampler, batch size, epochs and seed part groups, nothing else."""
    base = Recipe("crt")
    apart = [
        Recipe("crt", **change)
        for change in (
            {"view": "balanced"},
            {"sampler": "instance"},
            {"per_class": 2},
            {"batch_size": 128},
            {"epochs": 3},
            {"steps_per_epoch": 7},
            {"seed": 1},
        )
    ]
    together = [
        Recipe("crt", lr=0.5),
        Recipe("crt", weight_decay=0.0),
        Recipe("crt", optimiser="adamw"),
        Recipe("crt", schedule="constant", warmup=2),
        Recipe("crt", loss="focal"),
        Recipe("crt", head="cosine"),
        Recipe("lws", epochs=10),
    ]
    groups = plan([base, *apart, *together], SHAPE, memory=GIB)
    assert len(groups) == 1 + len(apart), f"got {len(groups)} groups, expected {1 + len(apart)}"
    assert set(groups[0].recipes) == {base, *together}


def test_training_free_recipes_share_a_group_by_view() -> None:
    """Reference: DESIGN, a whole grid of what needs no training is one pass."""
    grid = [Recipe("tau_norm", tau=t / 10) for t in range(20)] + [Recipe("ncm")]
    groups = plan([*grid, Recipe("ncm", view="balanced")], SHAPE, memory=GIB)
    assert [len(group.recipes) for group in groups] == [21, 1]
    assert all(group.stream.sampler is None for group in groups)


def test_what_a_tile_shares() -> None:
    """Reference: one head, optimiser, kernel, precision and calibration; losses of a kernel mix."""
    short = {"batch_size": 64}
    base = Recipe("ce", **short)
    together = [Recipe("ce", lr=0.5, **short), Recipe("focal", **short), Recipe("los", epochs=10)]
    apart = [
        Recipe("ce", **short, **change)
        for change in (
            {"head": "cosine"},
            {"optimiser": "adamw"},
            {"loss": "cb_bce"},
            {"loss": "sigmoid_focal"},
            {"precision": "bf16"},
            {"calibration": "temperature"},
        )
    ]
    (group,) = plan([base, *together, *apart], SHAPE, memory=GIB)
    assert len(group.tiles) == 1 + len(apart), f"got {[t.key for t in group.tiles]}"
    assert set(group.tiles[0].recipes) == {base, *together}


def test_full_batch_recipes_share_a_group_by_sampler() -> None:
    """Reference: their rows weigh as the sampler draws them; there are no batches to share."""
    recipes = [
        Recipe("ce", optimiser="lbfgs", weight_decay=decay, sampler=sampler)
        for decay in (0.1, 0.2)
        for sampler in ("instance", "class_balanced")
    ]
    groups = plan(recipes, SHAPE, memory=GIB)
    assert [len(group.recipes) for group in groups] == [2, 2]
    assert all(group.stream.epochs == 0 for group in groups)


def test_duplicates_are_planned_once() -> None:
    """Reference: equal recipes are one configuration."""
    (group,) = plan(
        [Recipe("crt"), Recipe("crt", lr=0.2), Recipe("crt", lr=0.1)], SHAPE, memory=GIB
    )
    assert len(group.recipes) == 2, f"got {group.recipes}"


def test_an_impossible_budget_says_so() -> None:
    """Reference: the house's error form; the message has the need, the budget and the remedy."""
    huge = Shape(rows=10**6, dim=2048, classes=8142)
    with pytest.raises(errors.ConfigError, match="needs .* MiB, the memory budget is") as caught:
        plan([Recipe("crt")], huge, memory=1 << 20)
    need, budget = map(int, re.findall(r"(\d+) MiB", str(caught.value)))
    assert budget == 1, f"got {budget}"
    assert need > 8142 * 2048 * 4 * 2 >> 20, f"got {need} MiB for W, its velocity and more"
    assert "--memory" in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_budgets_bound_what_a_group_allocates(device: str) -> None:
    """Reference: logits and gradient [B, C, K], weight, velocity, gradient [C, K, D], float32."""
    recipes = [Recipe("crt", lr=0.001 * (i + 1), batch_size=64) for i in range(200)]
    least = 4 * (2 * 64 * SHAPE.classes + 3 * SHAPE.classes * SHAPE.dim)
    for memory in (4 * least, 18 * least, 128 * least, 1000 * least):
        groups = plan(recipes, SHAPE, memory=memory, device=device)
        sizes = [len(group.recipes) for group in groups]
        assert max(sizes) * least <= memory, f"got groups of {sizes} in {memory} bytes"
        assert sum(sizes) == 200
        assert max(sizes) - min(sizes) <= 1, f"got {sizes}, expected equal groups"


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 64])
def test_tiles_come_in_multiples_of_the_workers(count: int, workers: int) -> None:
    """Reference: all workers have equally many tiles, where there are enough recipes."""
    recipes = [Recipe("crt", lr=0.01 * (i + 1), batch_size=64) for i in range(count)]
    (group,) = plan(recipes, SHAPE, memory=GIB, workers=workers)
    tiles = len(group.tiles)
    expected = tiles % workers == 0 if count >= workers else tiles == count
    assert expected, f"got {tiles} tiles of {count} recipes for {workers} workers"


def test_all_recipes_of_a_group_see_the_same_batches(
    small: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the index stream. What every tile really gathers is recorded by a spy, where
    PyTorch trains; the compiled pass is compared with that."""
    monkeypatch.setenv(SWITCH, "off")
    library.cache_clear()
    recipes = [
        Recipe(name, lr=lr, epochs=3, batch_size=32, sampler="class_aware")
        for name in ("crt", "lws", "disalign", "ldam", "focal", "balanced_softmax")
        for lr in (0.01, 0.1)
    ]
    (group,) = groups_of(recipes, small, workers=2)
    assert len(group.tiles) >= 6, f"got {len(group.tiles)} tiles, expected several"
    seen: dict[int, list[torch.Tensor]] = {}
    current: list[int] = []
    train, batch = TileRun.train, Context.batch

    def spy_train(self: TileRun, view: int, window: Window, stopped: Event) -> None:
        current[:] = [id(self.tile)]
        train(self, view, window, stopped)
        current.clear()

    def spy_batch(self: Context, x: torch.Tensor, *more: torch.Tensor | None) -> object:
        made = batch(self, x, *more)
        if current:  # and not an evaluation
            seen.setdefault(current[0], []).append(made.x.clone())
        return made

    monkeypatch.setattr(TileRun, "train", spy_train)
    monkeypatch.setattr(Context, "batch", spy_batch)
    data = small.view()
    run_group(group, data, workers=1)
    library.cache_clear()
    expected = data.train.x[group_stream(group.stream, data.train.labels)].flatten(0, 1)
    assert set(seen) == {id(tile) for tile in group.tiles}
    for batches in seen.values():
        got = torch.stack(batches)
        assert torch.equal(got, expected), "a tile has seen other rows than the stream's"
