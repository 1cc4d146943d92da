"""`optimiser=lbfgs`: the optimum of convex recipes, held against scikit-learn and autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from featbank import errors
from stage2.engine import rows as rows_module
from stage2.engine.optimum import _FullBatchObjective, _Metric, optimum
from stage2.engine.outcome import Outcome
from stage2.engine.rows import MemoryRows
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from tests.stage2 import reference
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, problem, run


def _of(recipe: Recipe, made: Problem) -> Outcome:
    (outcome,) = run([recipe], made).values()
    return outcome


@pytest.mark.parametrize("decay", [1e-3, 1e-1])
@pytest.mark.parametrize("sampler", ["instance", "class_balanced"])
def test_linear_and_ce_end_where_logistic_regression_does(
    decay: float, sampler: str, small: Problem
) -> None:
    """Reference: sklearn's LogisticRegression, C = 1/(N·decay), the bias not penalised;
    class-balanced draws are its class_weight='balanced'."""
    settings = {"sampler": sampler, "weight_decay": decay, "decay_bias": False}
    recipe = Recipe("ce", optimiser="lbfgs", gradient_norm=1e-7, **settings)
    outcome = _of(recipe, small)
    x, y = small.x["train", "instance"], small.y["train"]
    expected = LogisticRegression(
        C=1 / (len(x) * decay),
        class_weight="balanced" if sampler == "class_balanced" else None,
        tol=1e-9,
        max_iter=10_000,
    ).fit(x.astype(np.float64), y)
    assert_close(outcome.parameters["weight"], expected.coef_, 1e-4, "weight")
    bias = outcome.parameters["bias"]
    centred = expected.intercept_ - expected.intercept_.mean()
    assert_close(bias - bias.mean(), centred, 1e-4, "bias")


def _objective(recipe: Recipe, outcome: Outcome, made: Problem) -> tuple[float, float]:
    """Value and largest gradient entry of the full-batch objective, by autograd."""
    data, s = made.double(), {**recipe.settings, **recipe.part("loss")}
    p = {k: v.double().requires_grad_() for k, v in outcome.parameters.items()}
    z = reference.logits(recipe.head, p, data["x"], data["w0"], data["b0"])
    value = reference.loss(s["loss"], z, data["y"], s, data["n"])
    value = value + s["weight_decay"] / 2 * sum(v.square().sum() for v in p.values())
    slopes = torch.autograd.grad(value, list(p.values()))
    return float(value.detach()), max(float(slope.abs().max()) for slope in slopes)


@pytest.mark.parametrize("head", ["linear", "lws"])
@pytest.mark.parametrize(
    "loss",
    ["ce", "weighted", "class_balanced", "balanced_softmax", "logit_adjusted", "vs", "las", "los"],
)
def test_the_gradient_norm_is_the_stated_one(head: str, loss: str, small: Problem) -> None:
    """Reference: value and gradient of the whole training split by float64 autograd."""
    recipe = Recipe(loss, head=head, optimiser="lbfgs", weight_decay=0.01, gradient_norm=1e-5)
    outcome = _of(recipe, small)
    value, slope = _objective(recipe, outcome, small)
    assert slope <= 1.1e-5, f"got a gradient of {slope} at the end of {recipe}"
    assert outcome.curves["gradient_norm"][-1] <= 1e-5
    assert_close(outcome.curves["loss"][-1], value, 1e-6, "objective")


def test_recipes_do_not_notice_their_company(small: Problem) -> None:
    """Reference: each recipe alone; losses, decays and tolerances side by side."""
    recipes = [
        Recipe(loss, optimiser="lbfgs", weight_decay=decay, gradient_norm=1e-6)
        for loss in ("ce", "weighted", "balanced_softmax", "las")
        for decay in (1e-3, 1e-1)
    ]
    for recipe, outcome in run(recipes, small).items():
        alone = _of(recipe, small)
        for name, values in alone.parameters.items():
            assert_close(outcome.parameters[name], values, 1e-4, f"{name} of {recipe}")


def test_blocks_and_copies_change_nothing(small: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the run in one block; equal copies of every row leave the objective as it is."""
    recipe = Recipe("weighted", optimiser="lbfgs", weight_decay=0.01)
    whole = _of(recipe, small)
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 4 * 7 * 6)
    blocks = _of(recipe, small)
    view = small.view()
    assert isinstance(view.train, MemoryRows)
    twice = MemoryRows(view.train.x.repeat(2, 1), view.train.labels.repeat(2), copies=2)
    monkeypatch.setattr(Problem, "view", lambda self, view_="instance": replace(view, train=twice))
    copied = _of(recipe, small)
    for name, values in whole.parameters.items():
        assert_close(blocks.parameters[name], values, 1e-6, f"{name} in blocks")
        assert_close(copied.parameters[name], values, 1e-6, f"{name} with copies")


def test_there_is_one_result_for_all_seeds(small: Problem) -> None:
    """Reference: METHODS §5; a seed is no setting of such a recipe."""
    recipe = Recipe("ce", optimiser="lbfgs")
    assert not recipe.stepped
    assert recipe.seed == 0
    with pytest.raises(errors.ConfigError, match="takes no setting 'seed'"):
        Recipe("ce", optimiser="lbfgs", seed=1)
    assert _of(recipe, small).selected_epoch is None


REFUSED = {
    "head 'mislas' is not convex": lambda: Recipe("mislas", optimiser="lbfgs"),
    "loss 'focal' is not convex": lambda: Recipe("focal", optimiser="lbfgs"),
    "loss 'gradual' changes over the epochs": lambda: Recipe("gradual", optimiser="lbfgs"),
    "sampler 'progressive' changes": lambda: Recipe("ce", optimiser="lbfgs", sampler="progressive"),
    "loss 'weighted' changes": lambda: Recipe("weighted", optimiser="lbfgs", **{"loss.defer": 3}),
    "max_norm is a constraint": lambda: Recipe("ce", optimiser="lbfgs", max_norm=1.0),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_one_optimum_is_refused(reason: str) -> None:
    """Reference: METHODS §5, for recipes convex in their parameters; the message has the remedy."""
    make: Callable[[], Recipe] = REFUSED[reason]
    with pytest.raises(errors.ConfigError, match=f"{reason}.*Choose sgd or adamw"):
        make()


def test_a_norm_that_is_not_reached_is_told(small: Problem) -> None:
    """Reference: two iterations are not enough; the warning names the recipe and the remedy."""
    recipe = Recipe("ce", optimiser="lbfgs", max_iterations=2)
    told = rf"1 of 1 recipes stopped short.*{recipe.id} after 2 iterations.*Raise max_iterations"
    with pytest.warns(UserWarning, match=told):
        _of(recipe, small)


@pytest.mark.parametrize("counts", [(20, 0, 6), (9, 1, 1), (5, 5)])
def test_edges(counts: tuple[int, ...]) -> None:
    """Reference: a finite end at the stated norm with empty classes, single samples, K = 2."""
    outcome = _of(Recipe("ce", optimiser="lbfgs", weight_decay=0.01), problem(counts, dim=1))
    assert outcome.status == "done"
    assert outcome.curves["gradient_norm"][-1] <= 1e-5


def _objective_of(made: Problem, recipes: list[Recipe]) -> _FullBatchObjective:
    context = made.view().context
    start = HEADS["linear"].init([r.part("head") for r in recipes], context)
    return _FullBatchObjective(recipes, start, context, 1)


def test_the_metric_is_the_inverse_that_it_says(small: Problem) -> None:
    """Reference: (Σ/K + λ)⁻¹ in NumPy, of the weight and bias of each class, for each recipe."""
    recipes = [
        Recipe("ce", optimiser="lbfgs", sampler="class_aware", weight_decay=d) for d in (0.1, 0.001)
    ]
    objective = _objective_of(small, recipes)
    x, y = small.x["train", "instance"].astype(float), small.y["train"]
    counts, (_, dim) = np.bincount(y), x.shape
    share = 1 / (len(counts) * counts[y])
    one = np.column_stack([x, np.ones(len(x))])
    moment = (one * share[:, None]).T @ one
    gradient = np.random.default_rng(0).normal(size=(2, len(counts) * (dim + 1)))
    for problems in ([0, 1], [1]):
        got = _Metric(objective)(torch.from_numpy(gradient[problems]), torch.tensor(problems))
        for row, index in zip(got.numpy(), problems, strict=True):
            weight, bias = np.split(gradient[index], [len(counts) * dim])
            of_class = np.column_stack([weight.reshape(-1, dim), bias])
            matrix = moment / len(counts) + (0.1, 0.001)[index] * np.eye(dim + 1)
            moved = np.linalg.solve(matrix, of_class.T).T
            expected = np.concatenate([moved[:, :-1].ravel(), moved[:, -1]])
            np.testing.assert_allclose(row, expected, rtol=1e-9)


def test_the_metric_saves_passes_and_keeps_the_optimum(small: Problem) -> None:
    """Reference: the end without it; features far from 0 are what it is for."""
    recipes = [
        Recipe("ce", optimiser="lbfgs", weight_decay=d, gradient_norm=1e-7) for d in (0.01, 0.001)
    ]
    context = small.view().context
    rows = [(x + 3, y) for x, y in context.blocks()]
    moved = replace(context, blocks=lambda: rows)
    start = HEADS["linear"].init([r.part("head") for r in recipes], moved)
    got, short = optimum(recipes, start, moved)
    expected, long = optimum(recipes, start, moved, in_metric=False)
    for name, values in expected.items():
        torch.testing.assert_close(got[name], values, rtol=1e-3, atol=1e-3)
    for fast, slow in zip(short.values, long.values, strict=True):
        assert 3 * len(fast) < 2 * len(slow), (
            f"{len(fast)} iterations, {len(slow)} without the metric"
        )
        assert abs(fast[-1] - slow[-1]) < 1e-8


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_the_metric_of_fewer_rows_than_features(decay: float) -> None:
    """Reference: the loss falls and everything is finite where Σ is singular."""
    made = problem((4, 3, 2), dim=20)
    recipe = Recipe("ce", optimiser="lbfgs", weight_decay=decay, max_iterations=20)
    context = made.view().context
    start = HEADS["linear"].init([recipe.part("head")], context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without decay the optimum lies at infinity
        parameters, minimum = optimum([recipe], start, context)
    assert all(values.isfinite().all() for values in parameters.values())
    assert minimum.values[0][-1] < 0.2 * minimum.values[0][0]
