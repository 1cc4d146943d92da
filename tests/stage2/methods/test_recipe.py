"""Recipes: resolution, hashes, prefixes, errors, grids [DESIGN, The command line]."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import errors
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe, expand

_CHANGES: dict[str, Any] = {
    "lr": 0.03,
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 1e-3,
    "schedule": "constant",
    "warmup": 2,
    "epochs": 3,
    "batch_size": 17,
    "steps_per_epoch": 5,
    "init": "stage1",
    "per_class": 2,
    "view": "balanced",
    "optimiser": "adamw",
    "loss": "focal",
    "head": "cosine",
    "sampler": "instance",
}


@settings(max_examples=50, deadline=None)
@given(
    st.sets(st.sampled_from(sorted(set(_CHANGES) - {"sampler", "head", "optimiser"}))), st.randoms()
)
def test_key_order_does_not_matter(keys: set[str], random: Any) -> None:
    """Reference: the same settings in another order (hypothesis)."""
    first = sorted(keys)
    second = list(first)
    random.shuffle(second)
    a, b = (Recipe("crt", **{k: _CHANGES[k] for k in order}) for order in (first, second))
    assert (a.hash, a.id, a) == (b.hash, b.id, b)
    assert hash(a) == hash(b)


def test_every_setting_changes_the_hash_and_the_id() -> None:
    """Reference: all hashes of single changes are different."""
    recipes = [Recipe("crt"), *(Recipe("crt", **{k: v}) for k, v in _CHANGES.items())]
    recipes += [Recipe("ce", sampler="class_aware", lr=0.2, batch_size=512)]  # crt by another name
    assert len({r.hash for r in recipes}) == len(recipes)
    assert len({r.id for r in recipes}) == len(recipes)


def test_the_id_excludes_the_seed_and_the_hash_does_not() -> None:
    """Reference: DESIGN, a configuration and its seeds."""
    recipes = [Recipe("mislas", seed=seed) for seed in range(3)]
    assert len({r.id for r in recipes}) == 1
    assert len({r.hash for r in recipes}) == 3
    assert all("seed" not in r.parameters and r.settings["seed"] == r.seed for r in recipes)
    assert recipes[0].id.startswith("mislas-")


def test_spelling_does_not_matter() -> None:
    """Reference: 1 and 1.0, a value at its default, a prefixed and a plain name."""
    assert Recipe("crt", lr=1) == Recipe("crt", lr=1.0)
    assert Recipe("crt", epochs=10.0) == Recipe("crt")
    assert Recipe("crt", lr=0.2, momentum=0.9) == Recipe("crt")
    assert Recipe("focal", **{"loss.gamma": 2.0}) == Recipe("focal", gamma=2.0)
    assert Recipe("mislas", **{"head.delta_lr": 0.3}) == Recipe("mislas", delta_lr=0.3)
    assert Recipe("crt", **{"sampler.per_class": 2}) == Recipe("crt", per_class=2)


def test_hashes_are_the_same_in_another_process() -> None:
    """Reference: a fresh interpreter with another hash seed."""
    code = (
        "from stage2.methods.recipe import Recipe; import json;"
        "print(json.dumps([Recipe(n, lr=0.3).hash for n in ('crt', 'ldam', 'mislas')]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(filter(None, sys.path))},
    ).stdout
    expected = [Recipe(name, lr=0.3).hash for name in ("crt", "ldam", "mislas")]
    assert json.loads(out) == expected, f"got {out}, expected {expected}"


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("crtt", {}, "Unknown recipe 'crtt'. Did you mean 'crt'?"),
        ("mislass", {}, "Did you mean 'mislas'?"),
        ("crt", {"lrr": 1.0}, "Recipe 'crt' takes no setting 'lrr'. Did you mean 'lr'?"),
        ("crt", {"weight_decy": 1.0}, "Did you mean 'weight_decay'?"),
        ("crt", {"delta_lr": 1.0}, "Recipe 'crt' takes no setting 'delta_lr'."),
        ("ncm", {"lr": 1.0}, "Recipe 'ncm' takes no setting 'lr'."),
        ("ncm", {"seed": 1}, "Recipe 'ncm' takes no setting 'seed'."),
        ("crt", {"loss": "focall"}, "Did you mean 'focal'?"),
        ("crt", {"head": "linaer"}, "Did you mean 'linear'?"),
        ("crt", {"sampler": "class_awar"}, "Did you mean 'class_aware'?"),
        ("ldam", {"scale": 10.0}, "Write head.scale or loss.scale."),
        ("tau_norm", {"tau": -1}, "The 'tau' of recipe 'tau_norm' must be a float ≥ 0, got -1."),
        ("crt", {"lr": 0}, "The 'lr' of recipe 'crt' must be a float > 0, got 0."),
        ("crt", {"lr": -0.1}, "The 'lr' of recipe 'crt' must be a float > 0, got -0.1."),
        ("crt", {"lr": "fast"}, "must be a float > 0, got 'fast'."),
        ("crt", {"lr": True}, "must be a float > 0, got True."),
        ("crt", {"lr": None}, "must be a float > 0, got None."),
        ("crt", {"lr": float("nan")}, "must be a float > 0, got nan."),
        ("crt", {"lr": float("inf")}, "must be a float > 0, got inf."),
        ("crt", {"epochs": 2.5}, "The 'epochs' of recipe 'crt' must be an integer ≥ 1, got 2.5."),
        ("crt", {"epochs": 0}, "must be an integer ≥ 1, got 0."),
        ("crt", {"epochs": float("inf")}, "must be an integer ≥ 1, got inf."),
        ("crt", {"epochs": float("nan")}, "must be an integer ≥ 1, got nan."),
        ("crt", {"batch_size": -1}, "must be an integer ≥ 1, got -1."),
        ("crt", {"steps_per_epoch": 0}, "must be an integer ≥ 1, got 0."),
        ("crt", {"nesterov": 1}, "must be true or false, got 1."),
        ("crt", {"init": 3}, "must be one of fresh, stage1, text, got 3."),
        ("crt", {"seed": -1}, "got -1."),
        ("los", {"smoothing": 1.5}, "must be a float ≥ 0 and ≤ 1, got 1.5."),
        ("crt", {"weight_decay": -1e-4}, "must be a float ≥ 0, got -0.0001."),
        ("crt", {"schedule": "cosine_prestep", "epochs": 1}, "'crt' cannot move: with schedule="),
        ("balanced_softmax", {"epochs": 1}, "every step has the learning rate 0. Give it epochs=2"),
        ("ldam", {"defer": 8, "epochs": 8}, "ends after 8 epochs, before its defer=8 acts."),
        ("crt", {"defer": 90, "epochs": 20}, "ends after 20 epochs, before its defer=90 acts."),
    ],
)
def test_what_is_wrong_is_said(name: str, parameters: dict[str, Any], message: str) -> None:
    """Reference: STYLE, one sentence form for a bad value and the closest name for an unknown."""
    with pytest.raises(errors.ConfigError) as caught:
        Recipe(name, **parameters)
    assert message in str(caught.value), f"got {caught.value}, expected {message}"


def test_names_that_two_parts_share_are_prefixed() -> None:
    """Reference: DESIGN, ``loss.gamma`` where two parts have a gamma."""
    recipe = Recipe("ldam", **{"loss.scale": 20.0, "head.scale": 10.0})
    assert recipe.part("loss")["scale"] == 20.0
    assert recipe.part("head")["scale"] == 10.0
    assert {"loss.scale", "head.scale"} <= set(recipe.settings)
    assert "scale" not in recipe.settings
    follows = Recipe("ldam", **{"head.scale": 20.0})
    assert follows.part("loss")["scale"] == 20.0, "a margin is measured on the head's logits"
    assert Recipe("ldam", head="tde", **{"head.scale": 9.0}).part("loss")["scale"] == 9.0
    assert Recipe("ce", head="cosine", scale=25.0).part("head")["scale"] == 25.0


@pytest.mark.parametrize("head", ["linear", "lws", "mislas", "mlp"])
def test_a_margin_on_plain_logits_has_no_scale(head: str) -> None:
    """Reference: LDAM on a linear head as in LOS's table, max_margin on the logits, where 30·½ is
    refused."""
    assert Recipe("ldam", head=head).part("loss")["scale"] == 1.0
    assert Recipe("ldam", head=head, scale=1.0) == Recipe("ldam", head=head)
    message = (
        f"^Recipe 'ldam' has scale=30, and head '{head}' has no scale: the loss acts on its logits "
        "as they are. Leave scale out, or take head=cosine.$"
    )
    with pytest.raises(errors.ConfigError, match=message):
        Recipe("ldam", head=head, scale=30.0)
    margin = LOSSES["ldam"](np.array([16.0, 1.0]), Recipe("ldam-linear").part("loss")).margin
    assert margin is not None
    np.testing.assert_allclose(margin, [0.25, 0.5], rtol=1e-12)


@pytest.mark.parametrize("name", PRESETS)
def test_parts_have_all_that_head_and_loss_take(name: str) -> None:
    """Reference: the registries; and a repr one can read."""
    recipe = Recipe(name)
    assert recipe.trained == HEADS[recipe.head].trained
    parts = {"head": HEADS[recipe.head].settings}
    if recipe.trained:
        parts["loss"] = LOSSES[recipe.settings["loss"]].settings
    for part, own in parts.items():
        values = recipe.part(part)
        assert values.keys() - {"seed"} == {s.name for s in own}
        optional = {s.name for s in own if s.default is None} - {"scale"}
        missing = {key for key, value in values.items() if value is None}
        assert missing <= optional, f"{part}: got no value for {missing - optional}"
    assert repr(recipe).startswith(f"Recipe({name!r}, view=")
    json.dumps(recipe.settings, allow_nan=False)


def test_replacing_a_part_drops_the_settings_of_the_old_one() -> None:
    """Reference: the parts' own settings."""
    recipe = Recipe("mislas", head="linear", loss="ce")
    assert "delta_lr" not in recipe.settings
    assert "smooth_head" not in recipe.settings
    assert recipe.settings["init"] == "fresh"
    free = Recipe("crt", head="ncm")
    everywhere = {"view", "train_on", "calibration", "head"}
    assert set(free.settings) == everywhere | {"transform", "metric"}, f"got {free.settings}"


# expand -------------------------------------------------------------------------------------------


def test_expand_is_the_product_of_the_grid() -> None:
    """Reference: itertools.product by hand; texts are read as on a command line."""
    got = expand({"crt": {"lr": ["0.1", 0.2], "nesterov": ["true", "false"]}}, seeds=(0, 1, 2))
    expected = {
        Recipe("crt", lr=lr, nesterov=n, seed=s)
        for lr in (0.1, 0.2)
        for n in (True, False)
        for s in (0, 1, 2)
    }
    assert set(got) == expected
    assert len(got) == 12


def test_expand_collapses_what_needs_no_training() -> None:
    """Reference: DESIGN, one result for all seeds."""
    got = expand({"tau_norm": {"tau": ["0", "1"]}, "ncm": {}, "crt": {}}, seeds=(0, 1, 2))
    names = [recipe.name for recipe in got]
    assert {n: names.count(n) for n in names} == {"tau_norm": 2, "ncm": 1, "crt": 3}


def test_expand_leaves_out_settings_a_combination_does_not_take() -> None:
    """Reference: `gamma` belongs to focal alone, so ce comes once and focal twice."""
    got = expand({"ce": {"loss": ["ce", "focal"], "gamma": ["1", "2"]}})
    gammas = sorted(str(recipe.settings.get("gamma")) for recipe in got)
    assert gammas == ["1.0", "2.0", "None"], f"got {gammas}"
    heads = expand({"ce": {"head": ["linear", "cosine", "ncm"], "learn_scale": ["true"]}})
    assert [r.settings.get("learn_scale") for r in heads] == [None, True, None]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"crt": {"lrr": ["1"]}}, "None of the recipes takes a setting 'lrr'. Did you mean 'lr'?"),
        ({"crt": {"lr": ["0.1", "fast"]}}, "got 'fast'."),
        ({"crt": {"lr": ["0"]}}, "must be a float > 0, got 0."),
        ({"crt": {"nesterov": ["maybe"]}}, "must be true or false, got 'maybe'."),
        ({"crt": {"epochs": ["1.5"]}}, "must be an integer ≥ 1, got '1.5'."),
        ({"cr": {}}, "Unknown recipe 'cr'. Did you mean 'crt'?"),
        ({"crt": {"epochs": ["3"], "lr": []}}, "The grid of 'lr' for recipe 'crt' is empty."),
        ({"ncm": {"view": ()}}, "The grid of 'view' for recipe 'ncm' is empty."),
    ],
)
def test_expand_says_what_is_wrong(grid: dict[str, dict[str, Any]], message: str) -> None:
    """Reference: the same sentences as for a recipe."""
    with pytest.raises(errors.ConfigError) as caught:
        expand(grid)
    assert message in str(caught.value), f"got {caught.value}, expected {message}"
