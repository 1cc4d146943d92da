"""`LongTailClassifier`: scikit-learn's contract, and the engine's own results."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from featbank import errors
from stage2 import LongTailClassifier
from stage2.features.probe import linear_probe
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from tests.stage2.synthetic import Problem, problem, run

EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "It shuffles the rows, which decide batches."
}
"""Checks of scikit-learn's contract that cannot hold for recipes with steps, with the reason."""


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [("lws", {}), ("crt", {"lr": 0.2}), ("ncm", {}), ("knn", {"k": 3}), ("lda", {})],
)
def test_the_contract_of_scikit_learn(recipe: str, parameters: dict[str, object]) -> None:
    """Reference: `check_estimator`, all its checks, on every kind of recipe."""
    found = check_estimator(
        LongTailClassifier(recipe, **parameters),
        expected_failed_checks=EXPECTED_FAILURES if Recipe(recipe).stepped else {},
        on_fail=None,
        on_skip=None,
    )
    failed = {r["check_name"]: r["exception"] for r in found if r["status"] == "failed"}
    assert not failed, failed
    assert sum(r["status"] == "passed" for r in found) > 45


def test_smoothing_outside_the_range_of_the_paper_is_warned_of(small: Problem) -> None:
    """Reference: the warning of a sweep; none at the preset's own ε."""
    x, y = small.x["train", "instance"], small.y["train"]
    with pytest.warns(UserWarning, match="Loss 'las' smooths outside MiSLAS's range"):
        LongTailClassifier("ce", loss="las", smooth_head=0.1, smooth_tail=0.4, epochs=1).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LongTailClassifier("ce", loss="las", epochs=1).fit(x, y)


@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_fits(name: str, small: Problem) -> None:
    """All but those that want more than X and y, which say so."""
    x, y = small.x["train", "instance"], small.y["train"]
    short = {"epochs": 2} if Recipe(name).stepped else {}
    classifier, recipe = LongTailClassifier(name, random_state=0, **short), Recipe(name)
    wants = {
        "'train_on'": recipe.settings["train_on"] != "train",
        "val": bool(recipe.generator and recipe.part("generator").get("beta_step")),
        "text": recipe.on_text,
    }
    if any(wants.values()):
        (said,) = (word for word, wanted in wants.items() if wanted)
        with pytest.raises(errors.ConfigError, match=said):
            classifier.fit(x, y)
    else:
        probability = classifier.fit(x, y).predict_proba(small.x["test", "instance"])
        assert np.allclose(probability.sum(1), 1)


@pytest.mark.parametrize("recipe", [Recipe("crt", seed=3), Recipe("mislas", view="instance")])
def test_it_trains_what_a_sweep_trains(recipe: Recipe, small: Problem) -> None:
    """Reference: the engine on the same rows and the same stage-1 classifier, without val."""
    (outcome,) = run([recipe], small).values()
    classifier = LongTailClassifier(recipe.name, random_state=recipe.seed)
    x, y = small.x["train", "instance"], small.y["train"]
    classifier.fit(x, y, coef_init=small.w0, intercept_init=small.b0)
    assert classifier.recipe_ == recipe
    weight = outcome.parameters["weight"] * outcome.parameters.get("scale", torch.ones(1))[:, None]
    assert torch.equal(classifier.head_.form.weight.float(), weight)


def test_without_a_classifier_it_begins_from_the_probe(small: Problem) -> None:
    """Reference: the same recipe given the linear probe's weights."""
    x, y = small.x["train", "instance"], small.y["train"]
    weight, bias = linear_probe(small.view())
    given = LongTailClassifier(random_state=0).fit(x, y, coef_init=weight, intercept_init=bias)
    found = LongTailClassifier(random_state=0).fit(x, y)
    rows = small.x["test", "instance"]
    assert np.allclose(given.decision_function(rows), found.decision_function(rows), atol=1e-5)


def test_two_classes_take_one_row_of_weights() -> None:
    """Reference: τ = 0 leaves the classifier it was given: scikit-learn's own decision values."""
    made = problem((40, 12))
    x, y = made.x["train", "instance"], np.array(["few", "many"])[1 - made.y["train"]]
    linear = LogisticRegression().fit(x, y)
    kept = LongTailClassifier("tau_norm", tau=0.0, keep_bias=True)
    kept.fit(x, y, coef_init=linear.coef_, intercept_init=linear.intercept_)
    assert np.allclose(kept.decision_function(x), linear.decision_function(x), atol=1e-5)
    assert (kept.predict(x) == linear.predict(x)).all()
    assert np.allclose(kept.predict_proba(x), linear.predict_proba(x), atol=1e-6)


def test_in_scikit_learns_company(small: Problem) -> None:
    """A pipeline, a grid over a setting the estimator was not given, and calibration by folds."""
    x, y = small.x["train", "instance"], np.array([f"class {k}" for k in small.y["train"]])
    pipeline = make_pipeline(StandardScaler(), LongTailClassifier("tau_norm"))
    search = GridSearchCV(pipeline, {"longtailclassifier__tau": [0.0, 1.0]}, cv=3)
    search.fit(x, y)
    assert search.best_params_["longtailclassifier__tau"] in (0.0, 1.0)
    calibrated = CalibratedClassifierCV(LongTailClassifier("ncm"), cv=3).fit(x, y)
    assert calibrated.predict_proba(x).shape == (len(x), 6)
    test = small.x["test", "instance"], [f"class {k}" for k in small.y["test"]]
    assert search.score(*test) > 2 / 6


def test_parameters_follow_a_clone() -> None:
    """Settings of the recipe are parameters like any other, dots in their names or not."""
    classifier = LongTailClassifier("ldam", lr=0.5, **{"loss.scale": 20.0})
    copy = clone(classifier)
    assert copy.get_params() == classifier.get_params()
    assert copy.set_params(lr=0.25).get_params()["lr"] == 0.25
    assert classifier.get_params()["lr"] == 0.5
    assert "lr=0.5" in repr(classifier)


@pytest.mark.parametrize(
    "text",
    [
        "LongTailClassifier('lws')",
        "LongTailClassifier('crt', random_state=0, lr=0.2)",
        "LongTailClassifier('ldam', device='cpu', **{'loss.scale': 20.0})",
    ],
)
def test_it_prints_as_it_was_made(text: str) -> None:
    """Reference: Python's own evaluation of the text, and the parameters of what that makes."""
    made = eval(text)
    assert repr(made) == text
    assert len(repr(LongTailClassifier("lws", random_state="x" * 2_000))) <= 700


@pytest.mark.parametrize("recipe", ["lws", "gcl", "ncm", "lda", "knn", "mislas"])
def test_a_row_of_weight_n_is_n_rows(recipe: str, small: Problem) -> None:
    """Reference: the same recipe on rows that are repeated, and left out where the weight is 0."""
    x, y = small.x["train", "instance"], small.y["train"]
    weights = np.random.default_rng(0).integers(0, 4, len(y))
    short = {"epochs": 3} if Recipe(recipe).stepped else {}
    weighted = LongTailClassifier(recipe, random_state=0, **short).fit(x, y, sample_weight=weights)
    repeated = LongTailClassifier(recipe, random_state=0, **short)
    repeated.fit(x.repeat(weights, axis=0), y.repeat(weights))
    plain = LongTailClassifier(recipe, random_state=0, **short).fit(x, y)
    rows = small.x["test", "instance"]
    logits, expected, unweighted = (
        each.decision_function(rows) for each in (weighted, repeated, plain)
    )
    assert np.array_equal(logits, expected)
    assert not np.allclose(logits, unweighted)


@pytest.mark.parametrize("weight", [0.5, -1.0])
def test_weights_that_no_rows_can_have(weight: float, small: Problem) -> None:
    """Refused in a line that names the row."""
    x, y = small.x["train", "instance"], small.y["train"]
    weights = np.ones(len(y))
    weights[3] = weight
    with pytest.raises(ValueError, match=rf"{weight:g} at row 3, but .* whole number of times"):
        LongTailClassifier("ncm").fit(x, y, sample_weight=weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "lsw"}, "Unknown recipe 'lsw'. Did you mean 'lws'?"),
        ({"taau": 1.0}, "Recipe 'lws' takes no setting 'taau'"),
        ({"seed": 1}, "takes no setting 'seed': it knows X and y. Give random_state."),
        ({"view": "a+b"}, "takes no setting 'view'"),
        ({"calibration": "vector"}, "Wrap it in sklearn.calibration.CalibratedClassifierCV."),
        ({"device": "tpu"}, "Device 'tpu' cannot be used"),
    ],
)
def test_wrong_settings(arguments: dict[str, object], message: str, small: Problem) -> None:
    """Told by `fit` in one line, with a remedy."""
    with pytest.raises(errors.ConfigError) as caught:
        LongTailClassifier(**arguments).fit(small.x["train", "instance"], small.y["train"])
    assert message in str(caught.value), caught.value


def test_wrong_initial_weights(small: Problem) -> None:
    """Shapes are told as scikit-learn tells them, in a ValueError."""
    x, y = small.x["train", "instance"], small.y["train"]
    with pytest.raises(ValueError, match=r"have shapes \(6, 3\) and \(6,\), not \(6, 8\)"):
        LongTailClassifier().fit(x, y, coef_init=small.w0[:, :3])
    with pytest.raises(ValueError, match="without coef_init"):
        LongTailClassifier().fit(x, y, intercept_init=small.b0)


def test_seeds(small: Problem) -> None:
    """The same integer gives the same head; no `random_state` gives another each time."""
    x, y = small.x["train", "instance"], small.y["train"]
    heads = [
        LongTailClassifier("crt", epochs=1, random_state=seed).fit(x, y).head_.form.weight
        for seed in (1, 1, None, None)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[2], heads[3])
