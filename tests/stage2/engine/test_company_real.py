"""Company on real features: alone, in a pair and among 64, at the presets' learning rates.

CIFAR-100-LT features of a ResNet-32 (N = 10,847, D = 64, K = 100); skipped where they are absent.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from stage2.engine.outcome import Outcome
from stage2.methods.recipe import Recipe
from tests.stage2.compare import assert_close, difference
from tests.stage2.synthetic import Problem, run

WITHIN = 1e-4
POINTS = 0.05


@pytest.fixture(scope="module")
def real(real_features: Path) -> Problem:
    loaded = np.load(real_features)
    x = {
        (split, view): loaded[f"x_{split}_{view}"].astype(np.float32)
        for split in ("train", "test")
        for view in ("instance", "balanced")
    }
    y = {"train": loaded["y_train"], "test": loaded["y_test"]}
    return Problem(x, y, loaded["w0"], loaded["b0"])


def _company(recipes: list[Recipe]) -> list[Recipe]:
    """64 recipes on the stream of `recipes`, them in the midst: their like and others."""
    s = recipes[0].settings
    stream = {k: s[k] for k in ("view", "sampler", "batch_size", "epochs", "seed")}
    like = [
        Recipe(r.name, **stream, lr=r.settings["lr"] * factor, weight_decay=decay, momentum=m)
        for factor, decay, m in itertools.product((0.3, 0.6, 1.1), (0.0, 1e-4, 5e-4), (0.0, 0.9))
        for r in recipes
    ]
    others = [
        Recipe(name, **stream, lr=lr)
        for lr in (0.001, *(i / 100 for i in range(1, 13)))
        for name in ("lws", "mislas", "disalign", "ldam", "crt", "los", "balanced_softmax", "vs")
        if lr == 0.001 or Recipe(name).head == "linear"  # the others take more time
    ]
    several = [r for r in dict.fromkeys([*like, *others]) if r not in recipes]
    several = several[: 64 - len(recipes)]
    return [*several[:30], *recipes, *several[30:]]


@pytest.mark.parametrize(
    "names",
    [
        ("crt", "lws"),
        ("ldam",),
        *(  # test_company_256.py has them among 256
            pytest.param((name,), marks=pytest.mark.long)
            for name in ("mislas", "disalign", "los", "balanced_softmax")
        ),
    ],
)
def test_real_features_alone_in_a_pair_and_among_64(names: tuple[str, ...], real: Problem) -> None:
    """Reference: the run alone; parameters to 1e-4, top-1 and macro to 0.05 points."""
    recipes = [Recipe(name, epochs=3) for name in names]
    company = _company(recipes)
    assert len(set(company)) == 64, f"got {len(set(company))} recipes, expected 64"
    among = run(company, real, workers=2)
    for recipe in recipes:
        (alone,) = run([recipe], real).values()
        pair = run([company[0], recipe], real)
        _check(pair[recipe], alone, f"{recipe.name} in a pair")
        _check(among[recipe], alone, f"{recipe.name} among 64")


def _check(outcome: Outcome, alone: Outcome, what: str) -> None:
    gaps = {
        parameter: difference(outcome.parameters[parameter], value)
        for parameter, value in alone.parameters.items()
    }
    print(f"{what}: {', '.join(f'{k} {v:.2g}' for k, v in gaps.items())}")
    assert max(gaps.values()) <= WITHIN, f"{what}: got {gaps}, expected ≤ {WITHIN}"
    for metric in ("top1", "macro"):
        got = outcome.evaluations["test", "last"].metrics[metric]
        expected = alone.evaluations["test", "last"].metrics[metric]
        assert_close(got, expected, POINTS, f"{metric} of {what}")
