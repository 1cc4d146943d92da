"""Ready specifications that compare methods: each at its own best of an equal budget."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from stage2.specification import read_specification

FEWER = {"logn": 2, "ncm": 6}
"""Heads that have no more configurations than these."""


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
    """36 configurations each, NCM its 6 forms and LogN its 2; convex heads 4 more at an optimum.
    Heads that need text are left out: most banks have none."""
    recipes = read_specification("all-heads").recipes
    counts = Counter(r.settings["head"] for r in recipes)
    optima = Counter(r.settings["head"] for r in recipes if r.settings.get("optimiser") == "lbfgs")
    assert optima == {"linear": 4, "lws": 4}
    heads = [n for n, head in HEADS.items() if not (head.takes_tokens or head.needs_text)]
    assert counts - optima == {head: FEWER.get(head, 36) for head in heads}


def _by_name(specification: str) -> dict[str, list[Recipe]]:
    """The configurations of a ready specification, by recipe."""
    by_name: dict[str, list[Recipe]] = {}
    for recipe in read_specification(specification).recipes:
        if recipe.seed == 0:
            by_name.setdefault(recipe.name, []).append(recipe)
    return by_name


def test_baselines_are_all_methods_with_the_same_budget() -> None:
    """9 configurations each, or all there are; every head, loss and generator of a method that
    needs neither text nor tokens nor another training split is there."""
    by_name = _by_name("baselines")
    assert {name: len(own) for name, own in by_name.items()} == {
        name: FEWER.get(name, 9) for name in by_name
    }
    heads = {own[0].head for own in by_name.values()}
    assert heads == {n for n, h in HEADS.items() if not (h.takes_tokens or h.needs_text)}


def test_text_has_every_head_that_needs_text() -> None:
    """9 configurations each, zero_shot the one it has, and three losses from text."""
    by_name = _by_name("text")
    assert {name: len(own) for name, own in by_name.items()} == {
        name: 1 if name == "zero_shot" else 9 for name in by_name
    }
    assert all(recipe.on_text for own in by_name.values() for recipe in own)
    heads = {own[0].head for own in by_name.values()}
    assert heads >= {name for name, head in HEADS.items() if head.needs_text}


def test_los_rethink_is_the_table_of_los() -> None:
    """Reference: METHODS §11, LOS's rows on one backbone, and LOS; 17 configurations each, focal at
    γ = 2, LDAM on a linear head, and what starts from stage 1 there does so here."""
    by_name = _by_name("los-rethink")
    rows = (
        "ce cosine lws ldam-linear balanced_softmax focal cb_bce max_norm tau_norm logit_adjust los"
    )
    assert list(by_name) == rows.split()
    assert {len(own) for own in by_name.values()} == {17}
    assert {r.settings["gamma"] for r in by_name["focal"]} == {2.0}
    assert {(r.head, r.settings["scale"]) for r in by_name["ldam-linear"]} == {("linear", 1.0)}
    for name in ("cb_bce", "max_norm", "los"):
        assert {r.settings["init"] for r in by_name[name]} == {"stage1"}, name
    for own in by_name.values():
        if "lr" in own[0].settings:
            rates = np.log10([r.settings["lr"] for r in own])
            np.testing.assert_allclose(rates, np.arange(-6, 2.5, 0.5), atol=1e-5)


def test_la_reweighting_gives_every_loss_the_same_budget() -> None:
    """Reference: SLA Tables 1 and 6; 36 configurations each, one kind of weights at a time, half of
    them late."""
    by_name = _by_name("la-reweighting")
    kinds = {"logit_adjusted": None, "sla": None}
    kinds |= {"logit_adjusted-rw": "rho", "logit_adjusted-cb": "beta", "logit_adjusted-fl": "gamma"}
    assert by_name.keys() == kinds.keys()
    for name, kind in kinds.items():
        own = [r.settings for r in by_name[name]]
        assert len(own) == 36, name
        if kind:
            assert Counter(s["defer"] for s in own) == {0: 18, 8: 18}, name
            present = {k for s in own for k in ("rho", "beta", "gamma") if s[k]}
            assert present == {kind}, name


def test_gradual_forms_and_rho_curve_cover_their_figures() -> None:
    """Reference: GLAG Table 5, concave, linear and the convex c = 2, 4, 6, 8; DisAlign Fig. 5, ρ
    from 0 on, with the 1.2 that it chooses."""
    forms = _by_name("gradual-forms")
    bases = {r.settings["base"] for r in forms["gradual"]}
    assert {1.0, 2.0, 4.0, 6.0, 8.0} <= bases
    assert min(bases) < 1
    assert Counter(r.settings["strength"] for r in forms["gradual"]) == {0.5: 24, 1.0: 24}
    assert {"logit_adjusted", "ce"} < set(forms)
    curve = _by_name("rho-curve")
    for name in ("disalign", "weighted"):
        rho = [r.settings["rho"] for r in curve[name]]
        np.testing.assert_allclose(rho, np.arange(21) / 10, atol=1e-12)
        assert 1.2 in rho


def test_disalign_ablation_has_each_function_once() -> None:
    """Reference: DisAlign Table 5 with both equations and classifiers; a margin alone is the same
    in both equations, so that 2·2·(2·2 + 1) configurations differ, each under three seeds."""
    recipes = read_specification("disalign-ablation").recipes
    calibrated = [r for r in recipes if r.head == "disalign"]
    names = ("z0", "form", "learn", "confidence")
    rows = Counter(tuple(r.settings[name] for name in names) for r in calibrated)
    assert len(rows) == 20
    assert set(rows.values()) == {3}
    assert len(recipes) == 3 * 20 + 1
    assert {form for _, form, learn, _ in rows if learn == "margin"} == {"eq6"}
    usual = Recipe("disalign").settings
    fixed = usual.keys() - {*names, "seed"}
    assert all(r.settings[name] == usual[name] for r in calibrated for name in fixed)
