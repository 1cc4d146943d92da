"""A recipe's result does not depend on its company, nor on memory, workers or place in the stack.

The reference is the recipe's own run alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from stage2.engine.outcome import Outcome
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from tests.stage2.compare import assert_close, difference
from tests.stage2.synthetic import Problem, groups_of, problem, run

WITHIN = 1e-4
PLANS = [(1 << 30, 1), (1 << 30, 2), (40_000, 1), (50_000, 2)]
SHORT = {"batch_size": 32, "epochs": 6}


def _mixed() -> list[Recipe]:
    """Every trained preset at two seeds, settings of every kind, and what needs no training."""
    trained = [
        name
        for name, p in PRESETS.items()
        if not p.variant and Recipe(name).trained and name != "oracle"
    ]
    narrow = {"mlp": {"hidden": 4}}
    recipes = [
        Recipe(name, seed=seed, **SHORT, **narrow.get(name, {}))
        for name in trained
        for seed in (0, 1)
    ]
    more: list[dict[str, Any]] = [
        {"nesterov": True},
        {"momentum": 0.0},
        {"weight_decay": 0.3},
        {"warmup": 3},
        {"schedule": "multistep"},
        {"optimiser": "adamw", "lr": 0.01},
        {"sampler": "class_balanced"},
        {"head": "cosine", "learn_scale": True, "lr": 0.01},
    ]
    recipes += [Recipe(name, **{**SHORT, **m}) for name in ("ce", "focal") for m in more]
    forms = ({"form": "eq5"}, {"confidence": "off"}, {"learn": "margin"}, {"init": "released"})
    recipes += [Recipe("disalign", **SHORT, **m) for m in forms]
    recipes += [Recipe("mislas", **SHORT, retention=r, scale_lr=0.5) for r in (0.0, 0.5)]
    free = ("logit_adjust", "ncm", "ridge", "lda", "knn")
    return [*recipes, Recipe("tau_norm", tau=0.7), *map(Recipe, free)]


def assert_same(got: Outcome, alone: Outcome, where: str) -> None:
    """Parameters to 1e-4, and every metric of every split and epoch as good as equal."""
    for name, value in alone.parameters.items():
        assert_close(got.parameters[name], value, WITHIN, f"{name} of {got.recipe} {where}")
    assert got.selected_epoch == alone.selected_epoch, f"{got.recipe} {where}"
    assert set(got.evaluations) == set(alone.evaluations)
    for key, evaluation in alone.evaluations.items():
        for metric, expected in evaluation.metrics.items():
            seen = got.evaluations[key].metrics[metric]
            if expected is None:
                assert seen is None, f"{metric}: got {seen}, expected None"
            else:
                assert_close(seen, expected, 1e-2, f"{metric} at {key} of {got.recipe} {where}")


@cache
def _alone() -> tuple[Problem, dict[Recipe, Outcome]]:
    made = problem()
    return made, {r: o for recipe in _mixed() for r, o in run([recipe], made).items()}


@pytest.mark.parametrize(("memory", "workers"), PLANS)
def test_alone_or_among_all(memory: int, workers: int) -> None:
    """Reference: each recipe's run alone. Little memory cuts groups and tiles differently."""
    made, alone = _alone()
    among = run(_mixed(), made, memory=memory, workers=workers)
    assert set(among) == set(alone)
    for recipe, outcome in among.items():
        assert_same(outcome, alone[recipe], f"with memory {memory}, {workers} workers")


def test_the_plans_compared_are_different_plans() -> None:
    """Reference: the plans themselves; otherwise the test above would compare like with like."""
    made, _ = _alone()
    cuts = []
    for memory, workers in PLANS:
        groups = groups_of(_mixed(), made, memory=memory, workers=workers)
        cuts.append(tuple(tuple(len(t.recipes) for t in g.tiles) for g in groups))
    assert len(set(cuts)) == 4, f"got {cuts}, expected four different cuts"
    assert max(map(max, cuts[0])) > 10, f"got tiles {cuts[0]}, expected a large one"


def test_in_a_pair_and_in_any_order() -> None:
    """Reference: each recipe's run alone; it is first in one pair and second in another."""
    made, alone = _alone()
    recipes = [r for r in alone if r.trained]
    for pair in zip(recipes, [*recipes[7:], *recipes[:7]], strict=True):
        for recipe, outcome in run(list(pair), made).items():
            assert_same(outcome, alone[recipe], f"in the pair {[r.name for r in pair]}")
    backwards: Sequence[Recipe] = list(reversed(_mixed()))
    for recipe, outcome in run(backwards, made).items():
        assert_same(outcome, alone[recipe], "in reverse order")


def test_seeds_differ_and_repeat() -> None:
    """Reference: the same recipe at the same and at another seed."""
    made, alone = _alone()
    for name in ("crt", "mislas", "ldam"):
        first, other = alone[Recipe(name, **SHORT)], alone[Recipe(name, seed=1, **SHORT)]
        again = run([Recipe(name, **SHORT)], made)[Recipe(name, **SHORT)]
        for parameter, value in first.parameters.items():
            assert_close(
                again.parameters[parameter], value, 0.0, f"{parameter} of {name}, repeated"
            )
        gap = difference(first.parameters["weight"], other.parameters["weight"])
        assert gap > 1e-3, f"{name}: seeds 0 and 1 differ by {gap}, expected more than 1e-3"


@pytest.mark.parametrize(
    "name", ["crt", "lws", "mislas", "disalign", "ldam", "marc", "samn", "vmf", "etf"]
)
def test_a_diverged_neighbour_disturbs_nobody(name: str) -> None:
    """Reference: the recipe's run alone. Its neighbour at lr = 1e30 is marked as diverged."""
    made, _ = _alone()
    good, wild = Recipe(name, **SHORT), Recipe(name, **{**SHORT, "lr": 1e30, "weight_decay": 10.0})
    (alone,) = run([good], made).values()
    for order in ([good, wild], [wild, good], [good, wild, Recipe(name, **{**SHORT, "lr": 0.01})]):
        outcomes = run(order, made)
        assert outcomes[wild].status == "diverged", f"got {outcomes[wild].status}"
        assert not outcomes[wild].evaluations, "a diverged run has no results"
        assert outcomes[good].status == "done", f"got {outcomes[good].status}"
        assert_same(outcomes[good], alone, "beside a diverged one")


def test_divergence_in_the_very_last_step_is_noticed() -> None:
    """Reference: a run whose logits are not finite is no finished run, whatever its loss was."""
    made = problem()
    outcomes = run([Recipe("ce", epochs=1, batch_size=150, lr=lr) for lr in (3e38, 2.9e38)], made)
    for outcome in outcomes.values():
        nll = {k: e.metrics["nll"] for k, e in outcome.evaluations.items()}
        assert outcome.status == "diverged", (
            f"got status {outcome.status!r} with nll {nll}, expected 'diverged'"
        )
