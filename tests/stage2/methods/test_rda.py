"""Regularised discriminant analysis against scikit-learn, SciPy and loops in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from stage2.methods.heads import rda
from tests.stage2.compare import array, assert_close, assert_relative
from tests.stage2.methods.test_closed_form import decision, in_blocks, logits, rows_of
from tests.stage2.synthetic import problem

CASES = [
    {"pooling": p, "shrinkage": s, "prior": prior}
    for p in (0.0, 0.01, 0.5, 1.0)
    for s in (0.0, 0.3, 1.0)
    for prior in ("uniform", "counts")
]


def full(case: dict[str, Any], dims: int = 128) -> dict[str, Any]:
    """All settings, so that stacks of other tests can share the helper."""
    return {"dims": dims, "seed": 0, **case}


def density(
    x: np.ndarray, y: np.ndarray, test: np.ndarray, case: dict[str, Any], floor: float = 0.0
) -> np.ndarray:
    """log N(x; μ_k, Σ_k(λ, γ)) + log prior [B, K], class by class [Friedman 1989 eq. 16–18]."""
    classes, dim = y.max() + 1, x.shape[1]
    means = [x[y == k].mean(0) for k in range(classes)]
    own = [(x[y == k] - means[k]).T @ (x[y == k] - means[k]) for k in range(classes)]
    pooled, z = sum(own), np.empty((len(test), classes))
    for k in range(classes):
        weight = (1 - case["pooling"]) * (y == k).sum() + case["pooling"] * len(y)
        sigma = ((1 - case["pooling"]) * own[k] + case["pooling"] * pooled) / weight
        level = np.trace(sigma) / dim
        sigma = (1 - case["shrinkage"]) * sigma + case["shrinkage"] * level * np.eye(dim)
        if floor:
            values, vectors = np.linalg.eigh(sigma)
            least = floor * np.trace(pooled) / (dim * len(y))
            sigma = (vectors * values.clip(least)) @ vectors.T
        z[:, k] = stats.multivariate_normal(means[k], sigma).logpdf(test)
        if case["prior"] == "counts":
            z[:, k] += np.log((y == k).mean())
    return z


@pytest.mark.parametrize("dim", [5, 1])
def test_rda(dim: int) -> None:
    """Reference: SciPy's densities of Friedman's covariances, class by class."""
    made = problem((60, 40, 30, 12), dim=dim)
    x, y, test = rows_of(made)
    z = logits("rda", [full(case) for case in CASES], made)
    for c, case in enumerate(CASES):
        expected = decision(density(x, y, test, case))
        assert_relative(decision(array(z[:, c])), expected, 1e-4, f"{case}, D = {dim}")


def test_without_any_shrinkage_it_is_quadratic_discriminant_analysis() -> None:
    """Reference: scikit-learn, whose covariances are divided by n_k − 1, on repeated rows: 1,000
    copies make that 1 − 1/30,000 of ours."""
    made = problem((60, 40, 30), dim=4)
    x, y, test = rows_of(made)
    model = QuadraticDiscriminantAnalysis(priors=[1 / 3] * 3).fit(
        np.tile(x, (1000, 1)), np.tile(y, 1000)
    )
    (z,) = logits("rda", [full(CASES[0])], made).unbind(1)
    assert_relative(decision(array(z)), decision(model.decision_function(test)), 1e-3)


@pytest.mark.parametrize("shape", [{}, {"counts": (9, 5, 2), "dim": 40}])
def test_pooled_it_is_lda(shape: dict[str, Any]) -> None:
    """Reference: the LDA head with shrinkage γ; D > N included, with as many components as rows."""
    made = problem(**shape)
    shrinkages = (0.0, 0.1, 1.0) if not shape else (1.0,)  # D of γ is that of the components
    cases = [{"pooling": 1.0, "shrinkage": s, "prior": "counts"} for s in shrinkages]
    z = logits("rda", [full(case) for case in cases], made)
    lda = logits("lda", [{"shrinkage": s, "prior": "counts"} for s in shrinkages], made)
    for c, case in enumerate(cases):
        got, expected = decision(array(z[:, c])), decision(array(lda[:, c]))
        if shape:  # tr Σ/D has another D
            got, expected = got.argmax(1), expected.argmax(1)
        assert_relative(got, expected, 1e-4, f"{case}")


def test_classes_of_few_rows() -> None:
    """Reference: densities whose eigenvalues are raised to the floor; finite for a class of one
    row, even without any shrinkage."""
    made = problem((50, 20, 3, 1), dim=6)
    x, y, test = rows_of(made)
    cases = [{"pooling": p, "shrinkage": s, "prior": "uniform"} for p in (0, 0.1) for s in (0, 0.2)]
    z = logits("rda", [full(case) for case in cases], made)
    assert bool(z.isfinite().all()), f"got {z}"
    for c, case in enumerate(cases):
        expected = decision(density(x, y, test, case, rda.FLOOR))
        assert_relative(decision(array(z[:, c])), expected, 1e-4, f"{case}")


def test_leading_components() -> None:
    """Reference: the same densities of the rows' leading principal components by NumPy's SVD."""
    made = problem((60, 40, 30), dim=9)
    x, y, test = rows_of(made)
    basis = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:4].T
    z = logits("rda", [full(case, dims=4) for case in CASES], made)
    for c, case in enumerate(CASES):
        expected = decision(density(x @ basis, y, test @ basis, case))
        assert_relative(decision(array(z[:, c])), expected, 1e-4, f"{case}")


@pytest.mark.parametrize("most", [1, 1 << 24])
def test_few_classes_at_once(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: all classes at once."""
    made = problem()
    expected = logits("rda", [full(CASES[3])], made)
    monkeypatch.setattr(rda, "WHITENED_BYTES", most)
    assert_close(logits("rda", [full(CASES[3])], made), expected, 1e-4)


def test_hostile_rows() -> None:
    """Reference: by definition: an empty class is never named, and rows without any variance leave
    the nearest class mean."""
    z = logits("rda", [full(case) for case in CASES], problem((30, 0, 10), test=40))
    assert bool(z.isfinite().all()), f"got {z}"
    assert not bool((z.argmax(2) == 1).any()), "an empty class was named"
    made = problem((1, 1, 1, 1), test=20)
    x, y, test = rows_of(made)
    nearest = y[((test[:, None] - x) ** 2).sum(2).argmin(1)]
    z = logits("rda", [full(case) for case in CASES], made)
    for c in range(len(CASES)):
        assert_close(z[:, c].argmax(1), nearest, 0, f"{CASES[c]}")
    made = problem((20, 8, 4), dim=4)
    for place, rows in made.x.items():
        made.x[place] = np.concatenate([rows, np.full_like(rows, 100.0), rows], 1)
    z = logits("rda", [full(case) for case in CASES], made)
    assert bool(z.isfinite().all()), f"got {z}"


def test_two_passes_serve_a_grid() -> None:
    """Reference: one pass for the components and one for the scatter matrices; the next stack of
    the same dims needs none. Blocks of rows give what all at once do."""
    passes: list[int] = []
    context = problem().view().context
    blocks = in_blocks(context, 13, passes)
    for stack in (CASES[:3], CASES[3:], CASES):
        start = rda.RDA().init([full(case) for case in stack], blocks)
    assert len(passes) == 2, f"{len(passes)} passes"
    whole = rda.RDA().init([full(case) for case in CASES], context)
    batch = context.batch(torch.from_numpy(problem().x["test", "instance"]))
    got, expected = (rda.RDA().logits(parameters, batch) for parameters in (start, whole))
    assert_relative(got, expected, 1e-4)
