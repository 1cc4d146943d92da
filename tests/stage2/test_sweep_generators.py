"""Recipes that make features, from the bank to the results, with wrong input too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank, errors
from stage2 import Recipe, sweep
from stage2.methods.generators import GENERATORS, Features
from stage2.results.store import Store
from tests.stage2.synthetic import Problem, problem

SHORT = {"epochs": 3, "batch_size": 16}


def test_every_generator_ends_in_the_results(bank: Bank, tmp_path: Path) -> None:
    """Reference: the recipes; a resumed sweep trains none of them again."""
    recipes = [Recipe("ce", generator=name, **SHORT) for name in GENERATORS]
    results = tmp_path / "results.sqlite"
    done = sweep(bank, recipes, results=results, device="cpu")
    assert {outcome.recipe for outcome in done.outcomes} == set(recipes)
    assert all(outcome.status == "done" for outcome in done.outcomes)
    again = sweep(bank, recipes, results=results, device="cpu")
    assert again.outcomes == []
    assert set(again.skipped) == set(recipes)


def test_the_way_of_beta_is_kept(bank: Bank, tmp_path: Path) -> None:
    """Reference: the outcome in memory."""
    moving, fixed = Recipe("glag", **SHORT), Recipe("glag", beta_step=0.0, **SHORT)
    results = tmp_path / "results.sqlite"
    outcomes = sweep(bank, [moving, fixed], results=results, device="cpu").outcomes
    kept = {outcome.recipe: outcome.traces for outcome in outcomes}
    with Store(results) as store:
        got = store.traces(bank.fingerprint, moving.hash)["beta"]
        assert store.traces(bank.fingerprint, fixed.hash) == {}
    assert got.shape == (3, 6)
    np.testing.assert_array_equal(got, kept[moving]["beta"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tukey": 0.0}, "The 'tukey' of recipe 'glag' must be a float > 0, got 0."),
        ({"tukey": -1}, "The 'tukey' of recipe 'glag' must be a float > 0, got -1."),
        ({"generator.beta": 1.2}, "The 'beta' of recipe 'glag' must be a float ≥ 0 and ≤ 1, got"),
        ({"generator.beta": float("nan")}, "The 'beta' of recipe 'glag' must be a float ≥ 0 and"),
        ({"support": 0}, "The 'support' of recipe 'glag' must be an integer ≥ 1, got 0."),
        ({"gamma": -0.1}, "The 'gamma' of recipe 'glag' must be a float ≥ 0, got -0.1."),
        ({"generator": "agf"}, "got 'agf'. Did you mean 'afg'?"),
        ({"optimiser": "lbfgs", "loss": "ce"}, "generator 'afg' draws anew each epoch"),
        ({"k": 3}, "takes no setting 'k'"),
    ],
    ids=str,
)
def test_a_wrong_setting_gets_its_sentence(settings: dict[str, Any], sentence: str) -> None:
    """Reference: one sentence form for every setting."""
    with pytest.raises(errors.ConfigError) as caught:
        Recipe("glag", **settings)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_moving_beta_needs_val(without_val: Problem, tmp_path: Path) -> None:
    """Reference: METHODS §6, a clear error that offers a fixed β; which then trains."""
    with without_val.bank(tmp_path / "bank.h5") as bank:
        with pytest.raises(errors.ConfigError, match="moves β by the accuracy on val") as caught:
            sweep(bank, [Recipe("glag", **SHORT)], device="cpu")
        assert "--set beta_step=0" in str(caught.value)
        recipe = Recipe("glag", beta_step=0, **SHORT)
        (outcome,) = sweep(bank, [recipe], device="cpu").outcomes
    assert outcome.status == "done"


def test_beta_needs_val_rows_of_its_classes(small: Problem, tmp_path: Path) -> None:
    """Reference: a val of the large classes alone, by which β of no tail class can move."""
    large = np.flatnonzero(small.y["val"] < 3)
    x = {key: rows[large] if key[0] == "val" else rows for key, rows in small.x.items()}
    cut = replace(small, x=x, y={**small.y, "val": small.y["val"][large]})
    with cut.bank(tmp_path / "bank.h5") as bank:
        with pytest.raises(errors.ConfigError, match=r"no val row of the 3 classes that this"):
            sweep(bank, [Recipe("glag", **SHORT)], device="cpu")
        sweep(bank, [Recipe("glag", tail="medium+few", **SHORT)], device="cpu")


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"output_space": "tukey"}, "Use --set output_space=raw, or a head that begins fresh."),
        ({"generator": "tailcalib"}, "Use a head that begins fresh."),
        ({"head": "linear", "output_space": "tukey"}, "Use --set output_space=raw, or"),  # distil
    ],
    ids=str,
)
def test_the_stage_1_classifier_wants_its_features(
    bank: Bank, settings: dict[str, Any], remedy: str
) -> None:
    """Reference: the sentence; W₀ belongs to the features of stage 1."""
    sentence = "needs the stage-1 classifier, which does not fit the features that generator"
    with pytest.raises(errors.ConfigError, match=sentence) as caught:
        sweep(bank, [Recipe("glag", **settings)], device="cpu")
    assert remedy in str(caught.value)


def test_features_that_do_not_fit_are_told_before_training(tmp_path: Path) -> None:
    """Reference: the sentence, before any recipe of the sweep is trained."""
    made = problem((900, 300, 100, 30, 9), dim=64)
    sentence = "Generators need the features of train in"
    with (
        made.bank(tmp_path / "bank.h5") as bank,
        pytest.raises(errors.ConfigError, match=sentence),
    ):
        sweep(bank, [Recipe("ce"), Recipe("glag")], device="cpu", memory=400_000)


def test_features_that_are_not_finite_are_told(small: Problem) -> None:
    """Reference: the sentence; a bank is checked when it is written, arrays may come otherwise."""
    view = small.view()
    x, label = view.train.x.clone(), int(view.train.labels[0])
    x[0, 0] = float("nan")
    for name in ("afg", "dc", "tailcalib", "gaussian"):
        features = Features(x, view.train.labels, 1, view.counts)
        settings = {s.name: s.default for s in GENERATORS[name].settings}
        with pytest.raises(errors.NotFinite, match=f"of 1 classes are not finite, class {label}"):
            GENERATORS[name].prepare(settings, features)
