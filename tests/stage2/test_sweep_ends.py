"""The end of a sweep that cannot continue as planned: out of memory, Ctrl-C."""

from __future__ import annotations

import itertools
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featbank import Bank
from stage2 import Recipe, sweep
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup, Shape, plan
from stage2.engine.rows import Window
from stage2.engine.trainer import Trainer
from stage2.executors import local
from stage2.results.store import Store
from tests.stage2.compare import assert_close

SHORT = {"epochs": 2, "batch_size": 32}


def _recipes() -> list[Recipe]:
    return [Recipe(name, lr=lr, **SHORT) for name in ("crt", "lws") for lr in (0.01, 0.1, 0.2)]


def test_a_group_too_large_for_the_gpu_is_halved(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the sweep without trouble. Groups of more than two recipes run out of memory."""
    expected = {o.recipe: o for o in sweep(bank, _recipes(), device="cpu").outcomes}
    sizes: list[int] = []
    real = local.run_group

    def tight(group: FusedGroup, *views: Any, **options: Any) -> list[Outcome]:
        sizes.append(len(group.recipes))
        if len(group.recipes) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(group, *views, **options)

    monkeypatch.setattr(local, "run_group", tight)
    found = {o.recipe: o for o in sweep(bank, _recipes(), device="cpu").outcomes}
    assert set(found) == set(expected)
    assert sizes == [6, 3, 1, 2, 2, 1], f"got tries with {sizes} recipes"
    for recipe, outcome in found.items():
        for name, values in expected[recipe].parameters.items():
            assert_close(outcome.parameters[name], values, 1e-5, f"{name} of {recipe}")


def test_a_single_recipe_that_does_not_fit_says_so(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: nothing is left to halve."""

    def full(*_: Any, **__: Any) -> list[Outcome]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(local, "run_group", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        sweep(bank, [Recipe("crt", **SHORT)], device="cpu")


@given(st.lists(st.tuples(st.sampled_from(["crt", "lws", "ldam"]), st.floats(0.01, 1.0))))
def test_halves_have_every_recipe_once(parts: list[tuple[str, float]]) -> None:
    """Reference: the group; no half is larger than half of it by more than a recipe a tile."""
    recipes = [Recipe(name, lr=lr, epochs=2, batch_size=64) for name, lr in parts]
    for group in plan(recipes, Shape(1000, 8, 4), memory=1 << 30):
        halves = group.halves()
        assert sorted(r.hash for h in halves for r in h.recipes) == sorted(
            r.hash for r in group.recipes
        )
        assert all(half.recipes for half in halves)
        if len(group.recipes) > 1:
            sizes = [len(half.recipes) for half in halves]
            assert len(sizes) == 2
            assert max(sizes) - min(sizes) <= 1 or len(group.tiles) > 1


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_finished_groups_and_ends_soon(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Reference: the store; an interrupt in the second group leaves the first, whole, and the same
    sweep resumes from there."""
    recipes = [Recipe("crt", lr=lr, seed=s, **SHORT) for s in (0, 1) for lr in (0.1, 0.2)]
    calls = itertools.count()
    real = Trainer.train

    def interrupted(self: Trainer, window: Window, stopped: Event, betas: None) -> None:
        if self.recipes[0].seed == 1 and next(calls) == 0:
            raise KeyboardInterrupt
        real(self, window, stopped)

    results = tmp_path / "results.sqlite"
    monkeypatch.setattr(Trainer, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(bank, recipes, results=results, device="cpu", workers=workers)
    with Store(results) as store:
        seeds = {run.seed for run in store.runs(bank.fingerprint)}
    assert seeds == {0}, f"got results of seeds {seeds}"
    again = sweep(bank, recipes, results=results, device="cpu", workers=workers)
    assert len(again.skipped) == len(again.outcomes) == 2


def test_tiles_stop_at_their_next_step(small: Any) -> None:
    """Reference: no parameter moves once the event is set."""
    from stage2.engine.tile import TileRun

    view = small.view()
    (group,) = plan([Recipe("crt", **SHORT)], small.shape, memory=1 << 30)
    run = TileRun(group.tiles[0], group.stream, [view])
    before = run.models[0].state["parameters"]["weight"].clone()
    stopped = Event()
    stopped.set()
    run.begin_epoch(0)
    rows = torch.zeros(2, 32, dtype=torch.long)
    run.train(0, Window(view.train.x, rows, view.train.labels[rows]), stopped)
    assert torch.equal(run.models[0].state["parameters"]["weight"], before)
