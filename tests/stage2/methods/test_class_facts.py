"""A background, counts from outside and class groups in losses, heads, priors and generators.

References compute one class at a time, from the definitions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank import Bank, errors, write_bank
from featbank.bank import ClassGroups
from stage2.engine.loop import run_group
from stage2.export.moving import recipe_prior
from stage2.features.loading import facts_of, load_view
from stage2.methods.class_facts import ClassFacts
from stage2.methods.family import LossParameters, Moment
from stage2.methods.generators.calibrated import classes_of
from stage2.methods.heads import HEADS
from stage2.methods.heads.moments import class_weights
from stage2.methods.losses import LOSSES
from stage2.methods.priors import implied_prior
from stage2.methods.recipe import Recipe
from tests.stage2 import synthetic
from tests.stage2.synthetic import Problem

ROWS = np.array([50.0, 900, 40, 9, 4])
OUTSIDE = np.array([5e3, 9e6, 2e5, 8e2, 30.0])
BACKGROUND = 1

WEIGHTED: list[tuple[str, dict[str, Any]]] = [
    ("weighted", {"rho": 1.2}),
    ("class_balanced", {"beta": 0.999}),
    ("cb_focal", {"beta": 0.99}),
    ("sigmoid_focal", {"beta": 0.99}),
    ("logit_adjusted", {"rho": 0.7}),
    ("balanced_softmax", {"beta": 0.9}),
]


def weight_of(name: str, settings: dict[str, Any], n: float) -> float:
    """The weight of a class of n samples, up to a factor."""
    if "rho" in settings:
        return n ** -settings["rho"]
    return (1 - settings["beta"]) / (1 - settings["beta"] ** n)


@pytest.mark.parametrize("outside", [None, OUTSIDE])
@pytest.mark.parametrize(("loss", "settings"), WEIGHTED)
def test_a_background_has_weight_1_outside_the_sum(
    loss: str, settings: dict[str, Any], outside: np.ndarray | None
) -> None:
    """Reference: a loop over the other classes, whose weights sum to K − 1."""
    facts = ClassFacts(outside=outside, background=BACKGROUND)
    row = LOSSES[loss](ROWS, settings, facts=facts)
    n = ROWS if outside is None else outside
    raw = {k: weight_of(loss, settings, n[k]) for k in range(5) if k != BACKGROUND}
    expected = [4 * raw[k] / sum(raw.values()) if k in raw else 1.0 for k in range(5)]
    np.testing.assert_allclose(row.weight, expected, rtol=1e-12)


def test_the_weights_of_softmax_bce_keep_their_mean() -> None:
    """`cb_bce` divides Σω = K by K: the background's is the mean of all, 1/K."""
    row = LOSSES["cb_bce"](ROWS, {"beta": 0.999}, facts=ClassFacts(background=BACKGROUND))
    assert row.weight is not None
    assert row.weight[BACKGROUND] == pytest.approx(1 / 5)
    assert row.weight.sum() == pytest.approx(1)


def test_a_deferred_weight_sets_the_background_apart_as_well() -> None:
    """LDAM's weights after ``defer``; its margins are of all classes, the background among them."""
    settings = {"defer": 3, "beta": 0.999}
    facts = ClassFacts(background=BACKGROUND)
    early, late = (LOSSES["ldam"](ROWS, settings, Moment(t, 6), facts) for t in (0, 4))
    assert early.weight is None
    assert late.weight is not None
    assert late.weight[BACKGROUND] == pytest.approx(1)
    plain = LOSSES["ldam"](ROWS, settings, Moment(4, 6))
    np.testing.assert_array_equal(late.margin, plain.margin)


def test_logit_adjustment_does_not_know_a_background() -> None:
    """m = log π over all classes, its own count among them."""
    row = LOSSES["logit_adjusted"](ROWS, facts=ClassFacts(background=BACKGROUND))
    np.testing.assert_array_equal(row.shift, np.log(ROWS / ROWS.sum()))


@pytest.mark.parametrize(
    "loss", [name for name, loss in LOSSES.items() if loss.uses_counts or name == "las"]
)
def test_losses_take_counts_from_outside(loss: str) -> None:
    """Reference: the loss on these counts themselves."""
    inside, outside = LOSSES[loss](OUTSIDE), LOSSES[loss](ROWS, facts=ClassFacts(OUTSIDE))
    for field in ("scale", "shift", "margin", "weight", "smoothing", "cloud"):
        np.testing.assert_array_equal(getattr(outside, field), getattr(inside, field))


def test_classes_without_rows_are_empty() -> None:
    """Whatever is counted of them outside: no row of theirs trains."""
    rows, outside = np.array([9, 0, 0, 5]), np.array([90.0, 7, 0, 20])
    facts = ClassFacts(outside)
    with pytest.raises(errors.EmptyClass, match="2 have none: 1, 2"):
        LOSSES["weighted"](rows, facts=facts)
    row = LOSSES["weighted"](rows, {"empty_classes": "ignore", "rho": 1.0}, facts=facts)
    expected = np.array([1 / 90, 0, 0, 1 / 20])
    np.testing.assert_allclose(row.weight, 2 * expected / expected.sum())


def groups_of(member: list[int]) -> ClassGroups:
    return ClassGroups(("head", "body", "tail"), ("h", "b", "t"), np.array(member))


def test_distillation_and_generators_take_the_banks_groups() -> None:
    """By list the largest class may be of the tail; by default groups go by the training counts."""
    facts = ClassFacts(groups=groups_of([0, 2, 1, 1, -1]))
    row = LOSSES["distil"](ROWS, {"distil_groups": "many+medium"}, facts=facts)
    np.testing.assert_array_equal(row.distil_classes, [True, False, True, True, False])
    usual = LOSSES["distil"](ROWS, {"distil_groups": "many+medium"})
    np.testing.assert_array_equal(usual.distil_classes, [True, True, True, False, False])
    np.testing.assert_array_equal(classes_of("few", ROWS, facts), [False, True] + [False] * 3)
    apart = ClassFacts(background=BACKGROUND)
    row = LOSSES["distil"](ROWS, {"distil_groups": "many+medium"}, facts=apart)
    np.testing.assert_array_equal(row.distil_classes, [True, False, True, False, False])


def with_facts(small: Problem, **facts: Any) -> Any:
    return replace(small.view(), facts=ClassFacts(**facts))


def test_heads_take_the_prior_from_outside(small: Problem) -> None:
    """Reference: z⁰ − τ log π by NumPy; LDA's intercepts differ by the difference of log π, its
    class means and covariance not at all."""
    outside = np.array([10.0, 4000, 30, 20, 700, 5])
    log_prior = np.log(outside / outside.sum())
    view = with_facts(small, outside=outside)
    shift = HEADS["logit_adjust"].init([{"tau": 0.7}], view.context)["shift"]
    np.testing.assert_allclose(shift[0], -0.7 * log_prior, rtol=1e-6)
    settings = {"shrinkage": 0.1, "prior": "counts"}
    inside, made = (HEADS["lda"].init([settings], v.context) for v in (small.view(), view))
    np.testing.assert_array_equal(made["weight"], inside["weight"])
    moved = log_prior - np.log(small.counts / small.counts.sum())
    np.testing.assert_allclose(made["bias"] - inside["bias"], moved[None], atol=1e-5)


def test_class_weights_of_closed_forms_are_of_rows(small: Problem) -> None:
    """ω of a ridge balances rows, whatever the counts from outside; a background has weight 1 and
    the others the same total each, N' rows in all. Reference: a loop."""
    n, K = small.counts, len(small.counts)
    view = with_facts(small, outside=np.arange(1.0, K + 1))
    plain = class_weights(small.view().context, True)
    torch.testing.assert_close(class_weights(view.context, True), plain)
    view = with_facts(small, background=2)
    others = [k for k in range(K) if k != 2]
    total = sum(n[k] for k in others)
    expected = [total / (len(others) * n[k]) if k != 2 else 1.0 for k in range(K)]
    np.testing.assert_allclose(class_weights(view.context, True), expected)


def test_the_prior_of_a_head_follows_rows_and_counts() -> None:
    """A trained head's batches are drawn from rows, its loss adds log π of the counts; a head that
    is not trained starts from the counts. Reference: the products of these."""
    facts, n = ClassFacts(OUTSIDE), OUTSIDE / OUTSIDE.sum()
    ce = implied_prior(Recipe("ce"), ROWS, facts=facts).shares
    np.testing.assert_allclose(ce, ROWS / ROWS.sum())
    adjusted = implied_prior(Recipe("logit_adjusted"), ROWS, facts=facts).shares
    np.testing.assert_allclose(adjusted, ROWS / n / (ROWS / n).sum())
    half = implied_prior(Recipe("logit_adjust", tau=0.5), ROWS, facts=facts).shares
    np.testing.assert_allclose(half, np.sqrt(n) / np.sqrt(n).sum())


def test_a_bank_says_the_facts(small: Problem, tmp_path: Path) -> None:
    """Counts from outside are of train; groups by these counts where there are no others."""
    counts, groups = np.array([9, 8000, 50, 20, 3, 1]), groups_of([0, -1, 1, 2, 2, 2])
    features = {"train": {"a": small.x["train", "instance"]}}
    features["train_balanced"] = features["test"] = features["train"]
    labels = dict.fromkeys(features, small.y["train"])
    stated: dict[str, dict[str, Any]] = {
        "plain": {},
        "apart": {"background": 1},
        "sampled": {"outside_counts": counts},
        "all": {"outside_counts": counts, "background": 1, "class_groups": groups},
    }
    for name, options in stated.items():
        write_bank(tmp_path / f"{name}.h5", features, labels, **options)
    with Bank(tmp_path / "plain.h5") as bank:
        facts = facts_of(bank, "train")
        assert (facts.outside, facts.background, facts.groups) == (None, None, None)
    with Bank(tmp_path / "apart.h5") as bank:
        facts = facts_of(bank, "train")
        assert (facts.background, facts.groups) == (1, None)
        few = load_view(bank, "a").groups["few"]
        assert few.tolist() == [False, False, False, True, True, True]
    with Bank(tmp_path / "sampled.h5") as bank:
        view = load_view(bank, "a")
        assert view.facts.prior_counts(view.counts).tolist() == counts.tolist()
        assert view.groups["many"].tolist() == [False, True, False, False, False, False]
        shares = small.counts / counts  # the batches are of rows, log π of the counts
        implied = recipe_prior(bank, Recipe("logit_adjusted"), 1.0).shares
        np.testing.assert_allclose(implied, shares / shares.sum())
        other = facts_of(bank, "train_balanced")
        assert other.outside is None
        assert other.groups is not None
    with Bank(tmp_path / "all.h5") as bank:
        facts = load_view(bank, "a").facts
        assert facts.groups is not None
        assert facts.groups.equals(groups)
        assert facts.background == 1


@pytest.mark.parametrize("recipe", ["weighted", "balanced_softmax", "disalign"])
def test_only_ratios_of_outside_counts_matter(small: Problem, recipe: str) -> None:
    """Ten times the rows train the same head as the rows, up to rounding."""
    views = small.view(), with_facts(small, outside=10.0 * small.counts)
    (group,) = synthetic.groups_of([Recipe(recipe, epochs=2, seed=0)], small)
    (alone,), (scaled,) = (run_group(group, view) for view in views)
    for name, values in alone.parameters.items():
        torch.testing.assert_close(scaled.parameters[name], values, rtol=1e-4, atol=1e-5)


def test_loss_parameters_without_weights_stay() -> None:
    """Cross-entropy has no weights that a background could stand outside of."""
    assert LOSSES["ce"](ROWS, facts=ClassFacts(background=0)) == LossParameters()
