"""The correction of the best of many, and the set that ties with it, against known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from stage2.results.optimism import optimism

ROWS_SHARED = 0.7
"""Variance of a row's difficulty that all configurations share."""


def simulated(skill: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Correctness [R, N] of configurations whose true accuracies are Φ(skill)."""
    difficulty = random.normal(size=len(labels)) * np.sqrt(ROWS_SHARED)
    noise = random.normal(size=(len(skill), len(labels))) * np.sqrt(1 - ROWS_SHARED)
    return (skill[:, None] + difficulty + noise > 0).astype(np.uint8)


def test_the_best_of_many_equals_is_corrected_to_what_it_is() -> None:
    """60 configurations, 2 rows per class: naive +5 points, corrected within one of the truth; and
    the truly best one is in the set in at least 95 % of the draws."""
    naive, corrected, covered = [], [], []
    for draw in range(40):
        random = np.random.default_rng(draw)
        skill, labels = random.normal(0, 0.03, 60), np.repeat(np.arange(100), 2)
        result = optimism(simulated(skill, labels, random), labels, resamples=200)
        truth = 100 * norm.cdf(skill)
        naive.append(result.figure - truth[result.winner])
        corrected.append(result.corrected - truth[result.winner])
        covered.append(result.tied[truth.argmax()])
    assert np.mean(naive) > 3
    assert abs(np.mean(corrected)) < 1
    assert np.mean(covered) >= 0.95


@pytest.mark.parametrize("rule", ["nll", "1se"])
def test_what_likelihood_gains_by_chance_is_corrected(rule: str) -> None:
    """60 equals of one row per class: a row's loss is low where it is right, so the lowest NLL,T
    is right by chance. Corrected within half a point of the truth with the losses of the rows,
    points above it with the NLL,T of the configurations alone."""
    fixed, resampled = [], []
    for draw in range(40):
        random, labels = np.random.default_rng(draw), np.arange(200)
        correct = simulated(np.zeros(60), labels, random)
        losses = (2 - 1.5 * correct + random.random(correct.shape)).astype(np.float16)
        losses[:, 190:] = np.nan  # rows of classes without training rows
        nll = np.nanmean(losses.astype(float), axis=1)
        for known, found in ((None, fixed), (losses, resampled)):
            result = optimism(correct, labels, rule=rule, nll=nll, losses=known)
            found.append(result.corrected - 50)
    assert np.mean(fixed) > 2
    assert abs(np.mean(resampled)) < 0.6


def test_a_clear_winner_ties_with_nobody() -> None:
    """One that is right on nearly all rows among ones that are right on half of them."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 50)
    correct = (random.random((20, 500)) < 0.5).astype(np.uint8)
    correct[7] = random.random(500) < 0.95
    result = optimism(correct, labels)
    assert result.winner == 7
    assert np.flatnonzero(result.tied).tolist() == [7]
    assert result.corrected == pytest.approx(result.figure, abs=0.5)


def test_figures_are_macro_over_seeds() -> None:
    """Against the mean by hand: two classes of 3 rows and 1, two seeds."""
    correct, labels = np.array([[2, 1, 0, 2], [1, 1, 1, 0]], np.uint8), np.array([0, 0, 0, 1])
    result = optimism(correct, labels, seeds=np.array([2, 1]))
    assert result.winner == 0
    assert result.figure == pytest.approx(100 * (0.5 + 1.0) / 2)
    same = optimism(correct, labels, seeds=np.array([2, 1]))
    assert same.corrected == result.corrected, "the same random numbers"


def test_copies_of_the_winner_tie_with_it() -> None:
    """Equal configurations are in the set, whatever the resamples."""
    random = np.random.default_rng(3)
    correct = np.repeat((random.random((1, 60)) < 0.5).astype(np.uint8), 3, axis=0)
    assert optimism(correct, np.repeat(np.arange(6), 10)).tied.all()


@pytest.mark.parametrize("rule", ["macro", "1se", "nll"])
def test_nested_folds_correct_about_as_much_as_the_bootstrap(rule: str) -> None:
    """Reference: the truth, over draws; equals of 5 rows per class, NLL,T that knows nothing."""
    errors = []
    for draw in range(20):
        random = np.random.default_rng(draw)
        skill, labels = random.normal(0, 0.03, 40), np.repeat(np.arange(100), 5)
        correct, nll = simulated(skill, labels, random), random.random(40)
        pair = [optimism(correct, labels, rule=rule, nll=nll, nested=n) for n in (False, True)]
        truth = 100 * norm.cdf(skill)[pair[0].winner]
        errors.append([each.corrected - truth for each in pair])
        assert pair[1].nested
        assert pair[0].winner == pair[1].winner
        assert (pair[0].tied == pair[1].tied).all()
    bootstrap, nested = np.mean(errors, 0)
    assert abs(bootstrap) < 1
    assert abs(nested) < 1
