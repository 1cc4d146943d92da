"""Successive halving: who leaves and when, and that what is left is what it is without."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featbank import errors
from stage2.engine.halving import Halving
from stage2.engine.loop import run_group
from stage2.engine.outcome import Outcome
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from tests.stage2.compare import assert_close
from tests.stage2.engine.test_company import assert_same
from tests.stage2.synthetic import Problem, groups_of, problem, run

SHORT = {"batch_size": 32, "epochs": 6}


def _mixed() -> list[Recipe]:
    """Every trained preset, its own learning rate and a small one; both optimisers; moving β."""
    names = [n for n, p in PRESETS.items() if not p.variant and Recipe(n).trained and n != "oracle"]
    narrow = {"mlp": {"hidden": 4}}
    recipes = [
        Recipe(name, **SHORT, **rate, **narrow.get(name, {}))
        for name in names
        for rate in ({}, {"lr": 0.003})
    ]
    recipes += [
        Recipe("ce", **SHORT, lr=lr, **more)
        for lr in (0.001, 0.01, 0.05)
        for more in (
            {"optimiser": "adamw"},
            {"optimiser": "adamw", "beta1": 0.5, "weight_decay": 0.1},
            {"nesterov": True},
            {"momentum": 0.0, "warmup": 3},
            {"head": "cosine", "learn_scale": True},
            {"head": "mislas"},
            {"loss": "weighted", "defer": 3},
            {"max_norm": 0.5},
            {"view": "instance+balanced"},
        )
    ]
    recipes += [
        Recipe("glag", **SHORT, beta_step=step, beta=beta)
        for step in (0.0, 0.2)
        for beta in (0.2, 0.7)
    ]
    return list(dict.fromkeys([*recipes, Recipe("ncm"), Recipe("tau_norm")]))


@cache
def _in_full() -> tuple[Problem, dict[Recipe, Outcome]]:
    made = problem(val=12, spread=1.6)
    return made, run(_mixed(), made)


def _left_by_hand(outcomes: list[Outcome], halving: Halving) -> dict[Recipe, int]:
    """After how many epochs each outcome of a group leaves, from curves in full; at the end those
    that stay."""
    epochs = len(outcomes[0].curves["loss"])
    left, there, epoch = {}, outcomes, halving.first
    while epoch < epochs:
        there = sorted(there, key=lambda o: o.recipe.hash)
        there.sort(key=lambda o: round(max(o.curves["val_macro"][:epoch]), 6), reverse=True)
        keep = math.ceil(len(there) / halving.eta)
        left |= {o.recipe: epoch for o in there[keep:]}
        there, epoch = there[:keep], epoch * halving.eta
    return left | {o.recipe: epochs for o in there}


@pytest.mark.parametrize(
    ("memory", "workers", "halving"),
    [
        (1 << 30, 1, Halving(eta=2)),
        (1 << 30, 2, Halving(eta=3)),
        (60_000, 2, Halving(eta=2, first=2)),
        (1 << 30, 1, Halving(eta=4, first=5)),
    ],
)
def test_survivors_are_as_without_halving(memory: int, workers: int, halving: Halving) -> None:
    """Reference: the run in full, whose curves are compared by hand at every rung; parameters and
    metrics of what is left to the tolerance of a different company, curves of the rest."""
    made, full = _in_full()
    stopped = 0
    for group in groups_of(_mixed(), made, memory=memory, workers=workers):
        views = [made.view(view) for view in group.stream.views]
        outcomes = run_group(group, *views, workers=workers, halving=halving)
        assert [o.recipe for o in outcomes] == group.recipes
        if not group.stream.epochs:
            assert {o.status for o in outcomes} == {"done"}
            continue
        expected = _left_by_hand([full[recipe] for recipe in group.recipes], halving)
        assert sorted(expected.values()).count(6) == halving.counts(len(outcomes), 6)[-1]
        for outcome in outcomes:
            alone, epochs = full[outcome.recipe], len(outcome.curves["loss"])
            where = f"of {outcome.recipe} with {halving}"
            assert epochs == expected[outcome.recipe], f"{epochs} epochs {where}"
            for name, curve in outcome.curves.items():
                assert_close(
                    np.array(curve), np.array(alone.curves[name][:epochs]), 1e-3, f"{name} {where}"
                )
            for name, trace in outcome.traces.items():
                np.testing.assert_allclose(trace, alone.traces[name][:epochs], err_msg=where)
            if epochs == 6:
                assert outcome.status == "done"
                assert_same(outcome, alone, where)
                for name, value in alone.selected.items():
                    assert_close(outcome.selected[name], value, 1e-4, f"selected {name} {where}")
            else:
                stopped += 1
                assert outcome.status == "stopped"
                assert set(outcome.evaluations) == {("val", "last")}
                macro = outcome.evaluations["val", "last"].metrics["macro"]
                assert_close(macro, outcome.curves["val_macro"][-1], 1e-9, f"val {where}")
    assert stopped > 20, f"only {stopped} were stopped"


@given(st.integers(1, 300), st.integers(1, 60), st.integers(2, 6), st.integers(1, 70))
def test_counts_and_share(configs: int, epochs: int, eta: int, first: int) -> None:
    """Reference: the epochs walked one by one."""
    halving = Halving(eta=eta, first=first)
    there, trained, counts = configs, 0, [configs]
    for epoch in range(1, epochs + 1):
        trained += there
        if epoch < epochs and epoch in {first * eta**i for i in range(9)}:
            there = math.ceil(there / eta)
            counts.append(there)
    assert halving.counts(configs, epochs) == counts
    assert_close(halving.share(configs, epochs), trained / (configs * epochs), 1e-12)


def test_what_diverged_does_not_continue() -> None:
    """Reference: one of three continues, the other two have diverged."""
    made = problem(val=12)
    recipes = [Recipe("ce", loss="cb_bce", **SHORT, lr=lr) for lr in (1e38, 0.1, 3e38)]
    (group,) = groups_of(recipes, made)
    outcomes = run_group(group, made.view(), halving=Halving(eta=3))
    assert [o.status for o in outcomes] == ["diverged", "done", "diverged"]
    assert [len(o.curves["loss"]) for o in outcomes] == [1, 6, 1]
    assert not outcomes[0].evaluations


@pytest.mark.parametrize("wrong", [{"eta": 1}, {"eta": 2.5}, {"first": 0}, {"eta": True}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    """Reference: ConfigError with the setting's name and what it must be."""
    with pytest.raises(errors.ConfigError, match="of search 'halving' must be an integer ≥"):
        Halving(**wrong)
