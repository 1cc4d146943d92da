"""Kernel ridge regression on landmarks against scikit-learn and NumPy in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import cosine_similarity, rbf_kernel

from stage2.methods.heads import HEADS, kernel_ridge
from tests.stage2.compare import array, assert_close
from tests.stage2.methods.test_closed_form import full, in_blocks, logits, rows_of
from tests.stage2.synthetic import problem

KERNELS = [
    {"kernel": "rbf", "width": 1.0},
    {"kernel": "rbf", "width": 0.2},
    {"kernel": "cosine"},
    {"kernel": "polynomial", "degree": 3},
    {"kernel": "polynomial", "degree": 1},
]


def kernel_of(a: np.ndarray, b: np.ndarray, x: np.ndarray, case: dict[str, Any]) -> np.ndarray:
    """k(a, b) [n, m]; x are the training rows."""
    if case["kernel"] == "rbf":
        spread = ((x - x.mean(0)) ** 2).sum(1).mean()
        return rbf_kernel(a, b, gamma=1 / (case["width"] * spread))
    if case["kernel"] == "cosine":
        return cosine_similarity(a, b)
    return ((1 + cosine_similarity(a, b)) / 2) ** case["degree"]


def nystrom(
    landmarks: np.ndarray, x: np.ndarray, y: np.ndarray, test: np.ndarray, case: dict[str, Any]
) -> np.ndarray:
    """argmin Σ_i ω_i ‖Ak_i + b − y_i‖² + λ tr(AKAᵀ) by its normal equations, [B, K]."""
    targets = np.eye(y.max() + 1)[y]
    counts = np.bincount(y)
    balanced = case.get("class_weight") == "balanced"
    omega = (len(y) / (len(counts) * counts))[y] if balanced else np.ones(len(y))
    k, inner = kernel_of(x, landmarks, x, case), kernel_of(landmarks, landmarks, x, case)
    mean, share = np.average(k, 0, omega), np.average(targets, 0, omega)
    normal = (omega[:, None] * (k - mean)).T @ (k - mean) + case["l2"] * inner
    right = (omega[:, None] * (k - mean)).T @ (targets - share)
    a = np.linalg.lstsq(normal, right, rcond=1e-12)[0]
    return (kernel_of(test, landmarks, x, case) - mean) @ a + share


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("weight", ["none", "balanced"])
def test_landmarks(kernel: dict[str, Any], weight: str) -> None:
    """Reference: the normal equations of the kernels themselves, not of Nyström's φ."""
    made = problem()
    x, y, test = rows_of(made)
    cases = [
        {**kernel, "l2": l2, "class_weight": weight, "landmarks": 25} for l2 in (0.1, 1.0, 100.0)
    ]
    settings = [full("kernel_ridge", case) for case in cases]
    start = HEADS["kernel_ridge"].init(settings, made.view().context)
    z = HEADS["kernel_ridge"].logits(
        start, made.view().context.batch(torch.from_numpy(test).float())
    )
    landmarks = array(start["landmarks"][0]) + array(start["center"][0])
    for c, case in enumerate(cases):
        assert_close(z[:, c], nystrom(landmarks, x, y, test, case), 1e-4, f"{case}")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_every_row_a_landmark(kernel: dict[str, Any]) -> None:
    """Reference: scikit-learn's KernelRidge on centred kernels and targets, the exact
    solution with an intercept."""
    made = problem((20, 9, 4))
    x, y, test = rows_of(made)
    targets = np.eye(3)[y]
    k, rows = kernel_of(x, x, x, kernel), kernel_of(test, x, x, kernel)
    centred = k - k.mean(0) - k.mean(1)[:, None] + k.mean()
    model = KernelRidge(alpha=0.5, kernel="precomputed").fit(centred, targets - targets.mean(0))
    expected = model.predict(rows - k.mean(0) - rows.mean(1)[:, None] + k.mean()) + targets.mean(0)
    (z,) = logits("kernel_ridge", [full("kernel_ridge", {**kernel, "l2": 0.5})], made).unbind(1)
    assert_close(z, expected, 1e-4, f"{kernel}")


@pytest.mark.parametrize("draw", ["balanced", "uniform"])
def test_the_draw_of_landmarks(draw: str) -> None:
    """Reference: the training rows themselves: no row twice, and of each class the same number as
    far as it has so many; another seed draws others."""
    made = problem((70, 36, 2, 0, 8))
    x, y, _ = rows_of(made)
    cases = [{"landmarks": 20, "draw": draw, "draw_seed": seed, "kernel": "rbf"} for seed in (0, 1)]
    context = made.view().context
    start = HEADS["kernel_ridge"].init([full("kernel_ridge", case) for case in cases], context)
    drawn = []
    for c in range(2):
        rows = array(start["landmarks"][c]) + array(start["center"][c])
        gaps = ((rows[:, None] - x) ** 2).sum(2)
        assert gaps.min(1).max() < 1e-9, "a landmark is no training row"
        drawn.append(gaps.argmin(1))
        assert len(set(drawn[c])) == 20, "a row was drawn twice"
        if draw == "balanced":
            assert np.bincount(y[drawn[c]], minlength=5).tolist() == [6, 6, 2, 0, 6]
    assert set(drawn[0]) != set(drawn[1]), "two seeds, one draw"


def test_a_grid_maps_the_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the passes over the rows of one configuration; and the same rows in blocks."""
    passes: list[int] = []
    context = problem().view().context
    blocks = in_blocks(context, 13, passes)
    one = HEADS["kernel_ridge"].init([full("kernel_ridge", {"landmarks": 30})], blocks)
    few = len(passes)
    cases = [{"landmarks": 30, "l2": l2} for l2 in (0.01, 1.0, 100.0)]
    grid = HEADS["kernel_ridge"].init([full("kernel_ridge", case) for case in cases], blocks)
    assert len(passes) == few, f"{len(passes)} passes, one configuration takes {few}"
    whole = HEADS["kernel_ridge"].init([full("kernel_ridge", {"landmarks": 30})], context)
    for name, expected in one.items():
        assert_close(grid[name][1], expected[0], 0, f"{name} of a grid")
        assert_close(whole[name], expected, 1e-4, f"{name} in blocks")


def test_hostile_rows() -> None:
    """Reference: by definition: an empty class is never named; repeated and constant rows leave
    finite logits that sum to 1, as the targets do."""
    made = problem((30, 0, 10), test=20)
    cases = [full("kernel_ridge", {**kernel, "l2": l2}) for kernel in KERNELS for l2 in (0.0, 1.0)]
    z = logits("kernel_ridge", cases, made)
    assert not bool((z.argmax(2) == 1).any()), "an empty class was named"
    for rows in (lambda x: x.repeat(3, 1), torch.zeros_like, torch.ones_like):
        context = made.view().context
        x, y = next(iter(context.blocks()))
        odd = rows(x)
        labels = y.repeat(len(odd) // len(y))
        changed = replace(context, blocks=lambda odd=odd, labels=labels: [(odd, labels)])
        start = HEADS["kernel_ridge"].init(cases, changed)
        z = HEADS["kernel_ridge"].logits(start, changed.batch(odd[:5]))
        assert bool(z.isfinite().all()), f"got {z}"
        assert_close(z.sum(2), np.ones(z.shape[:2]), 1e-3, "sum of the logits")


def test_taken_labels() -> None:
    """Reference: by hand."""
    labels = np.array([2, 0, 0, 0, 2, 1, 0])
    assert sorted(kernel_ridge._taken(labels, 3)) == [0, 1, 5]
    assert sorted(kernel_ridge._taken(labels, 5)) == [0, 1, 2, 4, 5]
    assert sorted(kernel_ridge._taken(labels, 9)) == list(range(7))
