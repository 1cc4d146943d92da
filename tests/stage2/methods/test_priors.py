"""The class prior that logits are made for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from stage2.engine.kernel import KERNELS, LossRows
from stage2.export.modules import head_module
from stage2.methods.lbfgs import minimise
from stage2.methods.losses import LOSSES
from stage2.methods.presets import PRESETS
from stage2.methods.priors import implied_prior, log_shift
from stage2.methods.recipe import Recipe
from tests.stage2.synthetic import problem, run

COUNTS = np.array([240, 60, 12])

WIDE = {"k": 500, "temperature": 1.0, "class_weight": "none"}
"""Settings of a k-NN in which every class has votes."""


def population() -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """P(x | k) [4, 3], and rows (x, y) in exactly these shares with classes of `COUNTS`."""
    likelihood = np.array([[6, 1, 2], [3, 3, 1], [2, 4, 3], [1, 4, 6]]) / 12
    rows = (likelihood * COUNTS).astype(int)
    x, y = np.nonzero(rows)
    repeat = rows[x, y]
    return likelihood, *(torch.from_numpy(v.repeat(repeat)) for v in (x, y))


EXACT = [
    Recipe("ce"),
    Recipe("weighted", rho=0.7),
    Recipe("class_balanced", **{"loss.beta": 0.99}),
    Recipe("balanced_softmax"),
    Recipe("logit_adjusted", tau=0.6),
    Recipe("cb_bce", beta=0.99),
]


@pytest.mark.parametrize("recipe", EXACT, ids=lambda recipe: recipe.name)
def test_a_loss_at_its_optimum(recipe: Recipe) -> None:
    """Reference: a free logit for each of four values x takes, optimised under the loss on rows
    with exactly the shares P(x|k)·n_k. Its softmax is Bayes' rule under the implied prior."""
    likelihood, x, y = population()
    loss = LOSSES[recipe.settings["loss"]]
    rows = LossRows.stack([loss(COUNTS, recipe.part("loss"))], 3, dtype=torch.float64)

    def evaluate(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, slope = KERNELS[loss.kernel](point.view(4, 3)[x][:, None].clone(), y, rows)
        table = torch.zeros(4, 3, dtype=torch.float64).index_add_(0, x, slope[:, 0])
        return value, table.view(1, -1)

    z = minimise(
        evaluate, torch.zeros(1, 12, dtype=torch.float64),
        tolerance=torch.full((1,), 1e-10, dtype=torch.float64), max_iterations=500, history=10,
    ).point.view(4, 3)  # fmt: skip
    prior = implied_prior(recipe, COUNTS)
    assert prior.caveats == ()
    joint = likelihood * prior.shares
    assert np.abs(softmax(z.numpy(), 1) - joint / joint.sum(1, keepdims=True)).max() < 1e-5


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe("crt"), np.ones(3)),
        (Recipe("ce", sampler="sqrt"), COUNTS**0.5),
        (Recipe("ce", sampler="reversed"), 1 / COUNTS),
        (Recipe("ce", generator="tailcalib"), np.ones(3)),
        (Recipe("ce", generator="mixup"), COUNTS),
        (Recipe("balanced_softmax", sampler="class_balanced"), 1 / COUNTS),
        (Recipe("logit_adjust", tau=0.25), COUNTS**0.75),
        (Recipe("los", smoothing=1.0), np.ones(3)),
    ],
    ids=lambda value: value.id if isinstance(value, Recipe) else "",
)
def test_parts_multiply(recipe: Recipe, expected: np.ndarray) -> None:
    """Sampler, generator, loss and head, each by hand."""
    assert implied_prior(recipe, COUNTS).shares == pytest.approx(expected / expected.sum())


@pytest.mark.parametrize(
    ("name", "balanced", "natural"),
    [
        ("lda", {"prior": "uniform"}, {"prior": "counts"}),
        ("knn", {**WIDE, "class_weight": "balanced"}, WIDE),
        ("logit_adjust", {"tau": 1.0}, {"tau": 0.3}),
    ],
)
def test_heads_differ_by_their_priors(
    name: str, balanced: dict[str, Any], natural: dict[str, Any]
) -> None:
    """Reference: the same head with the other prior has the same probabilities, once shifted."""
    made = problem((120, 36, 20, 12, 4))
    x, log_p, shares = torch.from_numpy(made.x["test", "instance"]), [], []
    for recipe in (Recipe(name, **balanced), Recipe(name, **natural)):
        parameters = run([recipe], made)[recipe].parameters
        module = head_module(recipe, parameters, [made.view("instance").context], [None])
        log_p.append(log_softmax(module(x).detach().double().numpy(), 1))
        shares.append(implied_prior(recipe, made.counts).shares)
    assert log_shift(np.ones(5), shares[0]) is None
    shift = log_shift(shares[0], shares[1])
    assert shift is not None
    assert np.abs(log_softmax(log_p[1] + shift, 1) - log_p[0]).max() < 1e-4


def test_calibrations() -> None:
    """A temperature divides the log prior, vector scaling moves it to that of val."""
    cold = implied_prior(Recipe("ce", calibration="temperature"), COUNTS, temperature=2.0).shares
    assert cold == pytest.approx(COUNTS**0.5 / (COUNTS**0.5).sum())
    val = np.array([10, 10, 20])
    vector = Recipe("ce", calibration="vector", calibration_ridge=0.0)
    assert implied_prior(vector, COUNTS, val_rows=val).shares == pytest.approx(val / 40)
    held = implied_prior(Recipe("ce", calibration="vector"), COUNTS, val_rows=val)
    assert held.caveats == ("the ridge of its vector scaling",)
    even = implied_prior(Recipe("crt", calibration="vector"), COUNTS, val_rows=np.full(3, 5))
    assert (even.caveats, even.shares) == ((), pytest.approx(np.ones(3) / 3))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_one(name: str) -> None:
    """Shares of all classes that have rows, none of an empty one; losses that exclude it too."""
    recipe = Recipe(name)
    assert implied_prior(recipe, COUNTS).shares.sum() == pytest.approx(1)
    uses = recipe.trained and LOSSES[recipe.settings["loss"]].uses_counts
    if uses:
        recipe = Recipe(name, empty_classes="ignore")
    prior = implied_prior(recipe, np.array([120, 30, 0, 8]))
    assert prior.shares[2] == 0
    assert (prior.shares[[0, 1, 3]] > 0).all()


def test_the_shift_is_bayes_rule() -> None:
    """Reference: posteriors of the same likelihoods under both priors."""
    rng = np.random.default_rng(0)
    likelihood, source, target = rng.random((9, 4)), rng.random(4), rng.random(4)
    shift = log_shift(target / target.sum(), source / source.sum())
    shifted = log_softmax(np.log(likelihood * source), 1) + shift
    joint = likelihood * target
    assert softmax(shifted, 1) == pytest.approx(joint / joint.sum(1, keepdims=True))


def test_classes_that_a_prior_lacks() -> None:
    """A class of the target without a share has no probability, and every logit stays finite."""
    shift = log_shift(np.array([0.5, 0.5, 0.0]), np.array([0.8, 0.0, 0.2]))
    assert np.isfinite(shift).all()
    assert softmax(shift)[2] < 1e-37
    assert shift[1] == pytest.approx(np.log(1.5))
