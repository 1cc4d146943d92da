"""Ridge, LDA and nearest class mean against scikit-learn, in float64 [METHODS §3]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from featbank import errors
from stage2.methods.heads import HEADS, Context
from stage2.methods.heads.moments import moments
from stage2.methods.recipe import Recipe
from tests.stage2.compare import array, assert_close, assert_relative
from tests.stage2.synthetic import Problem, problem, run

L2 = (0.0, 1e-3, 1.0, 30.0, 1e4)
SHRINKAGE = (0.0, 0.1, 0.5, 1.0)
PRIORS = ("uniform", "counts")

SHAPES: dict[str, dict[str, Any]] = {
    "long-tailed": {},
    "two classes": {"counts": (25, 4)},
    "one feature": {"counts": (25, 9, 4), "dim": 1},
    "one sample in a class": {"counts": (20, 5, 1)},
    "equal counts": {"counts": (12, 12, 12)},
    "fewer rows than features": {"counts": (9, 5, 2), "dim": 40},
}


def rows_of(made: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training features and labels, test features, float64."""
    x, test = made.x["train", "instance"], made.x["test", "instance"]
    return x.astype(np.float64), made.y["train"], test.astype(np.float64)


def logits(head: str, cases: Sequence[dict[str, Any]], made: Problem) -> Tensor:
    """Logits [B, C, K] of the test rows for a stack of settings."""
    context = made.view().context
    start = HEADS[head].init([full(head, case) for case in cases], context)
    return HEADS[head].logits(start, context.batch(torch.from_numpy(made.x["test", "instance"])))


def full(head: str, case: dict[str, Any]) -> dict[str, Any]:
    """All settings of a head, the `case` over the defaults."""
    return {**{s.name: s.default for s in HEADS[head].settings}, "seed": 0, **case}


def in_blocks(context: Context, size: int, passes: list[int]) -> Context:
    """A context whose rows come `size` at a time; each pass is noted in `passes`."""

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        passes.append(1)
        for x, y in context.blocks():
            yield from zip(x.split(size), y.split(size), strict=True)

    return replace(context, blocks=blocks)


def decision(values: np.ndarray) -> np.ndarray:
    """scikit-learn's decision values as one column per class, each row around its mean."""
    if values.ndim == 1:  # two classes: the second against the first
        values = np.stack([-values / 2, values / 2], 1)
    return values - values.mean(1, keepdims=True)


def ridge_cases() -> list[dict[str, Any]]:
    return [{"l2": l2, "class_weight": w} for w in ("none", "balanced") for l2 in L2]


def regression(x: np.ndarray, y: np.ndarray, test: np.ndarray, case: dict[str, Any]) -> np.ndarray:
    """Ridge's logits [B, K] by scikit-learn, on one-hot targets; by NumPy's solution of least norm
    for λ = 0, where scikit-learn inverts what rounding leaves of a zero."""
    targets = np.eye(y.max() + 1)[y]
    balanced = case["class_weight"] == "balanced"
    weight = compute_sample_weight("balanced", y) if balanced else np.ones(len(y))
    if case["l2"]:
        model = Ridge(alpha=case["l2"], solver="svd").fit(x, targets, sample_weight=weight)
        return model.predict(test)
    mean, share = (np.average(a, 0, weight) for a in (x, targets))
    root = np.sqrt(weight)[:, None]
    solution = np.linalg.lstsq(root * (x - mean), root * (targets - share), rcond=1e-10)[0]
    return (test - mean) @ solution + share


@pytest.mark.parametrize("shape", SHAPES)
def test_ridge(shape: str) -> None:
    """Reference: scikit-learn's Ridge on one-hot targets with sample weights; NumPy's lstsq for
    λ = 0, with XᵀX regular and singular."""
    made = problem(**SHAPES[shape])
    x, y, test = rows_of(made)
    z = logits("ridge", ridge_cases(), made)
    for c, case in enumerate(ridge_cases()):
        assert_close(z[:, c], regression(x, y, test, case), 1e-5, f"ridge {case}, {shape}")


@pytest.mark.parametrize("shape", ["long-tailed", "two classes"])
def test_ridge_classifier(shape: str) -> None:
    """Reference: scikit-learn's RidgeClassifier, whose targets are ±1, so its values 2z − 1."""
    made = problem(**SHAPES[shape])
    x, y, test = rows_of(made)
    z = logits("ridge", ridge_cases(), made)
    for c, case in enumerate(ridge_cases()):
        weight = None if case["class_weight"] == "none" else "balanced"
        model = RidgeClassifier(alpha=case["l2"], class_weight=weight, solver="svd").fit(x, y)
        expected = model.decision_function(test)
        got = 2 * array(z[:, c]) - 1
        assert_close(got if expected.ndim == 2 else got[:, 1], expected, 1e-5, f"{case}")


@pytest.mark.filterwarnings("ignore:Only one sample")
@pytest.mark.parametrize("shape", SHAPES)
def test_lda(shape: str) -> None:
    """Reference: scikit-learn's LinearDiscriminantAnalysis(solver="lsqr"), decision values but for
    what all classes share; a singular covariance included."""
    made = problem(**SHAPES[shape])
    x, y, test = rows_of(made)
    z = logits("lda", [{"shrinkage": s, "prior": "counts"} for s in SHRINKAGE], made)
    for c, s in enumerate(SHRINKAGE):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s).fit(x, y)
        expected = decision(model.decision_function(test))
        assert_relative(decision(array(z[:, c])), expected, 1e-5, f"shrinkage {s}, {shape}")


def test_the_uniform_prior_of_lda() -> None:
    """Reference: scikit-learn at equal counts, where it weighs covariances as we do; elsewhere its
    decision values without log π."""
    made = problem((12, 12, 12))
    x, y, test = rows_of(made)
    (z,) = logits("lda", [{"shrinkage": 0.3, "prior": "uniform"}], made).unbind(1)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=[1 / 3] * 3)
    assert_relative(decision(array(z)), decision(model.fit(x, y).decision_function(test)), 1e-5)
    made = problem()
    x, y, test = rows_of(made)
    (z,) = logits("lda", [{"shrinkage": 0.3, "prior": "uniform"}], made).unbind(1)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(x, y)
    expected = decision(model.decision_function(test) - np.log(model.priors_))
    assert_relative(decision(array(z)), expected, 1e-5, "uniform prior, long-tailed")


@pytest.mark.parametrize("head", ["ridge", "lda"])
def test_an_empty_class_is_never_named(head: str) -> None:
    """Reference: the same problem without the class; its logits are the other classes' own."""
    made = problem((30, 0, 10), test=40)
    cases = {"ridge": ridge_cases(), "lda": [{"shrinkage": s} for s in SHRINKAGE]}[head]
    z = logits(head, cases, made)
    present = Problem(
        made.x, {s: np.where(y == 2, 1, y) for s, y in made.y.items()}, made.w0[:2], made.b0[:2]
    )
    expected = logits(head, cases, present)
    assert bool(z.isfinite().all()), f"got {z}"
    assert not bool((z.argmax(2) == 1).any()), "an empty class was named"
    got, plain = array(z[:, :, [0, 2]]), array(expected)
    gap = decision(got.reshape(-1, 2)) - decision(plain.reshape(-1, 2))
    assert_close(gap, np.zeros_like(gap), 1e-4 * np.abs(plain).max(), f"{head} beside it")


def test_lda_without_any_variance() -> None:
    """Reference: the nearest of the class means; one row per class leaves no covariance."""
    made = problem((1, 1, 1, 1), test=20)
    x, y, test = rows_of(made)
    z = logits("lda", [{"shrinkage": s, "prior": p} for s in (0, 1) for p in PRIORS], made)
    expected = y[((test[:, None] - x) ** 2).sum(2).argmin(1)]
    for c in range(z.shape[1]):
        assert_close(z[:, c].argmax(1), expected, 0, f"configuration {c}")


@pytest.mark.parametrize("head", ["ridge", "lda"])
def test_repeated_rows_and_constant_features_leave_no_nan(head: str) -> None:
    """Reference: scikit-learn; features that are constant and far from 0, repeated, or doubled."""
    made = problem((20, 8, 4), dim=4)
    x = {}
    for place, rows in made.x.items():
        constant = np.full((len(rows), 1), 100.0, np.float32)
        x[place] = np.concatenate([rows, rows, constant, 2 * rows[:, :1]], 1)
    for split in ("train", "test"):
        x[split, "instance"] = np.repeat(x[split, "instance"], 2, 0)
    y = {split: np.repeat(rows, 2) for split, rows in made.y.items()}
    odd = Problem(x, y, np.zeros((3, 10), np.float32), made.b0)
    train, labels, test = rows_of(odd)
    cases = {"ridge": ridge_cases(), "lda": [{"shrinkage": s, "prior": "counts"} for s in (0, 0.3)]}
    z = logits(head, cases[head], odd)
    for c, case in enumerate(cases[head]):
        if head == "ridge":
            expected = regression(train, labels, test, case)
        else:
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=case["shrinkage"])
            expected = model.fit(train, labels).decision_function(test)
        assert_relative(decision(array(z[:, c])), decision(expected), 1e-4, f"{head} {case}")


@pytest.mark.parametrize(
    ("head", "cases", "expected"),
    [
        ("ridge", ridge_cases()[: len(L2)], 1),
        ("ridge", ridge_cases(), 2),
        ("lda", [{"shrinkage": s, "prior": p} for s in SHRINKAGE for p in PRIORS], 1),
    ],
)
def test_one_eigendecomposition_and_one_pass_serve_a_grid(
    head: str, cases: list[dict[str, Any]], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the claim of METHODS §3, counted; other stacks of the context need none."""
    decompositions: list[int] = []
    passes: list[int] = []
    decompose = torch.linalg.eigh

    def counted(matrix: Tensor) -> Any:
        decompositions.append(1)
        return decompose(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    context = in_blocks(problem().view().context, 64, passes)
    settings = [full(head, case) for case in cases]
    whole = HEADS[head].init(settings, context)
    assert len(decompositions) == expected, f"got {len(decompositions)}, expected {expected}"
    assert len(passes) == 1, f"got {len(passes)} passes, expected 1"
    parts = [HEADS[head].init([s], context) for s in settings]
    assert (len(decompositions), len(passes)) == (expected, 1), "a second stack began anew"
    for name, values in whole.items():
        assert_close(torch.cat([p[name] for p in parts]), values, 0, f"{name} alone")


@pytest.mark.parametrize("head", ["ridge", "lda", "ncm"])
def test_rows_that_come_in_blocks(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the same rows at once; no piece taken to float64 is larger than the limit."""
    context, sizes = problem().view().context, []
    settings = [full(head, {})]
    if head == "ridge":
        settings.append(full(head, {"class_weight": "balanced"}))
    whole = HEADS[head].init(settings, context)
    double = Tensor.double
    monkeypatch.setattr("stage2.methods.heads.moments.BLOCK_ROWS", 20)
    monkeypatch.setattr("stage2.methods.heads.moments.PANEL", 3)
    streamed = in_blocks(context, 50, [])
    _ = streamed.mean  # before double() is watched: its rows need not be moved to float64

    def watched(tensor: Tensor) -> Tensor:
        sizes.append(len(tensor))
        return double(tensor)

    monkeypatch.setattr(Tensor, "double", watched)
    parts = HEADS[head].init(settings, streamed)
    assert 1 < max(sizes) <= 20, f"got {max(sizes)} rows at once, expected 20"
    for name, values in whole.items():
        assert_close(parts[name], values, 1e-5, f"{name} of {head}")


FEW_ROWS: dict[str, Problem] = {
    "long-tailed": problem((9, 5, 2), dim=40),
    "one row fewer than features": problem((20, 9, 5, 3), dim=38),
    "an empty class": problem((9, 0, 4), dim=40),
    "one row per class": problem((1, 1, 1), dim=12),
    "a single class": problem((5, 0), dim=12),
}


@pytest.mark.parametrize("head", ["ridge", "lda"])
@pytest.mark.parametrize("case", [*FEW_ROWS, "repeated rows", "constant features"])
def test_the_dual_of_fewer_rows_than_features(
    head: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the primal, D × D, on the same rows; it is the one that scikit-learn confirms."""
    made = FEW_ROWS.get(case, FEW_ROWS["long-tailed"])
    if case == "constant features":
        made = replace(made, x={k: np.append(x, 0 * x + 30, 1) for k, x in made.x.items()})
    context = made.view().context
    if case == "repeated rows":
        context = replace(context, blocks=lambda: [*made.view().context.blocks()] * 2)
    cases = {
        "ridge": ridge_cases(),
        "lda": [{"shrinkage": s, "prior": p} for s in (0.0, 1e-3, 0.5, 1.0) for p in PRIORS],
    }
    settings = [full(head, case) for case in cases[head]]
    sizes: list[int] = []
    decompose = torch.linalg.eigh

    def noted(matrix: Tensor) -> Any:
        sizes.append(len(matrix))
        return decompose(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", noted)
    dual = HEADS[head].init(settings, context)
    assert max(sizes) < context.dim, f"decomposed {sizes}, D = {context.dim}"
    monkeypatch.setattr("stage2.methods.heads.moments._spanned", lambda context: (None, context))
    primal = HEADS[head].init(settings, replace(context))
    assert max(sizes) == context.dim, "the reference is no primal"
    for name, expected in primal.items():
        size = max(1e-3, float(expected.double().abs().max()))  # all are rounding of a single class
        what = f"{name} of {head}, {case}"
        assert_close(dual[name].double(), expected.double(), 1e-5 * size, what)


def test_copies_may_make_the_rows_more_than_the_features() -> None:
    """Reference: scikit-learn on all copies; the counts say 16 rows, and 5 copies of them are more
    than the 40 features."""
    made = problem((9, 5, 2), dim=40)
    rng = np.random.default_rng(5)
    x, y, test = rows_of(made)
    copies = [x + rng.normal(0, 0.3, x.shape).astype(np.float32) for _ in range(5)]
    labels = torch.from_numpy(made.y["train"])
    blocks = [(torch.from_numpy(rows).float(), labels) for rows in copies]
    context = replace(made.view().context, blocks=lambda: blocks)
    start = HEADS["ridge"].init([full("ridge", {})], context)
    z = HEADS["ridge"].logits(start, context.batch(torch.from_numpy(test).float()))
    expected = regression(np.concatenate(copies), np.tile(y, 5), test, full("ridge", {}))
    assert_close(z[:, 0], expected, 1e-5, "ridge on five copies")


@pytest.mark.parametrize(("counts", "dim"), [((7, 3, 2), 4000), ((300, 150, 50), 20_000)])
def test_very_wide_features(counts: tuple[int, ...], dim: int) -> None:
    """Reference: the dual formula by NumPy, W = Yᵀ(XXᵀ + λI)⁻¹X on centred X and Y; cubic in D it
    would not end."""
    made = problem(counts, dim=dim, val=0, test=1)
    x, y, test = rows_of(made)
    targets, mean = np.eye(len(counts))[y], x.mean(0)
    share = targets.mean(0)
    inverse = np.linalg.inv((x - mean) @ (x - mean).T + 2.0 * np.eye(len(x)))
    expected = (test - mean) @ (x - mean).T @ inverse @ (targets - share) + share
    (z,) = logits("ridge", [full("ridge", {"l2": 2.0})], made).unbind(1)
    assert_close(z, expected, 1e-5, "ridge")
    (z,) = logits("lda", [full("lda", {"shrinkage": 1.0})], made).unbind(1)
    means = np.stack([x[y == k].mean(0) for k in range(len(counts))])
    level = ((x - means[y]) ** 2).sum() / x.size  # shrunk to a multiple of I: nearest mean
    expected = -((test[:, None] - means) ** 2).sum(2) / (2 * level)
    assert_relative(decision(array(z)), decision(expected), 1e-5, "lda")


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: NumPy's sums in float64, the Gram matrix whole although computed by panels."""
    monkeypatch.setattr("stage2.methods.heads.moments.PANEL", 3)
    made = problem((9, 0, 4))
    x, y, _ = rows_of(made)
    choices = np.array([[1.0, 1, 1], [0.5, 0, 2]])
    got = moments(made.view().context, list(torch.from_numpy(choices)))
    assert_close(got.rows, [9, 0, 4], 0, "rows")
    assert_close(got.sums, np.eye(3)[y].T @ x, 1e-12, "sums")
    for gram, weight in zip(got.grams, choices, strict=True):
        assert_close(gram, (x * weight[y, None]).T @ x, 1e-12, f"ω = {weight}")


@pytest.mark.parametrize("transform", ["un", "l2n"])
def test_nearest_class_mean(transform: str) -> None:
    """Reference: scikit-learn's NearestCentroid, Euclidean."""
    made = problem(test=60, spread=1.5)
    x, y, test = rows_of(made)
    if transform == "l2n":
        x, test = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, test))
    (z,) = logits("ncm", [{"transform": transform, "metric": "l2"}], made).unbind(1)
    assert_close(z.argmax(1), NearestCentroid().fit(x, y).predict(test), 0, f"{transform}")


def test_grids_through_the_engine() -> None:
    """Reference: each recipe alone, and a finite likelihood."""
    made = problem()
    recipes = [Recipe("ridge", l2=l2, class_weight=w) for l2 in L2 for w in ("none", "balanced")]
    recipes += [Recipe("lda", shrinkage=s, prior=p) for s in SHRINKAGE for p in PRIORS]
    together = run(recipes, made)
    for recipe, outcome in together.items():
        assert outcome.status == "done", f"{recipe}: got {outcome.status}"
        metrics = outcome.evaluations["test", "last"].metrics
        assert metrics["nll"] is not None, f"{recipe}: got {metrics}"
        assert math.isfinite(metrics["nll"]), f"{recipe}: got {metrics}"
        assert metrics["top1"] is not None, f"{recipe}: got {metrics}"
        (alone,) = run([recipe], made).values()
        for name, value in alone.parameters.items():
            assert_close(outcome.parameters[name], value, 1e-6, f"{name} of {recipe}")


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("ridge", {"l2": -1.0}, "The 'l2' of recipe 'ridge' must be a float ≥ 0, got -1."),
        ("ridge", {"class_weight": "equal"}, "must be one of none, balanced, got 'equal'."),
        ("lda", {"shrinkage": 1.5}, "must be a float ≥ 0 and ≤ 1, got 1.5."),
        ("lda", {"prior": "count"}, "got 'count'. Did you mean 'counts'?"),
    ],
)
def test_wrong_settings(name: str, settings: dict[str, Any], expected: str) -> None:
    """Reference: the one sentence of every wrong setting."""
    with pytest.raises(errors.ConfigError) as raised:
        Recipe(name, **settings)
    assert expected in str(raised.value), f"got {raised.value}"


def test_ridge_logits_sum_to_one() -> None:
    """Reference: one-hot targets do, and regression keeps it; so an empty class, at 0, is never the
    largest."""
    z = logits("ridge", ridge_cases(), problem((30, 0, 10)))
    assert_close(z.sum(2), np.ones(z.shape[:2]), 1e-5, "sum of the logits")
    assert_close(z[:, :, 1], np.zeros(z.shape[:2]), 0, "logit of the empty class")
