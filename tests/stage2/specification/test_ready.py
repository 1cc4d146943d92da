"""Ready specifications that compare methods: each at its own best of an equal budget."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from stage2.specification import read_specification


def test_baseline_gives_every_method_the_same_budget() -> None:
    """17 configurations each, NCM its 6 forms; the convex methods once more at their optimum; the
    rates are half decades from 1e-6 to 100, and τ = 1, as published, is among the values."""
    recipes = [r for r in read_specification("baseline").recipes if r.seed == 0]
    by_name: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        by_name.setdefault(recipe.name, []).append(recipe)
    optima = [r for r in recipes if r.settings.get("optimiser") == "lbfgs"]
    convex = {"ce", "crt", "lws", "balanced_softmax", "los"}
    assert {r.name for r in optima} == convex
    assert len(optima) == len(convex)
    for name, own in by_name.items():
        searched = [r for r in own if r not in optima]
        assert len(searched) == (6 if name == "ncm" else 17), name
        if "lr" in searched[0].settings:
            rates = np.log10([r.settings["lr"] for r in searched])
            np.testing.assert_allclose(rates, np.arange(-6, 2.5, 0.5), atol=1e-5)
        if "tau" in searched[0].settings:
            assert 1.0 in [r.settings["tau"] for r in searched]


def test_all_heads_gives_every_head_the_same_budget() -> None:
    """36 configurations each, NCM its 6 forms; the convex heads four times more at an optimum."""
    recipes = read_specification("all-heads").recipes
    counts = Counter(r.settings["head"] for r in recipes)
    optima = Counter(r.settings["head"] for r in recipes if r.settings.get("optimiser") == "lbfgs")
    assert optima == {"linear": 4, "lws": 4}
    assert counts - optima == {head: 6 if head == "ncm" else 36 for head in HEADS}
