"""Folds of whole source groups, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from featbank import errors
from featbank.bank.source_groups import source_units
from stage2.features.folds import deal


def _rows(random: np.random.Generator, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of long-tailed rows, 2 to 40 a group, of a few classes each."""
    sizes = random.integers(2, 40, groups)
    owner = np.repeat(random.permutation(1000)[:groups], sizes)
    favourite = random.integers(0, 6, 1000)[owner]
    other = (random.pareto(1.0, len(owner)) * 2).astype(int) % 6
    return np.where(random.random(len(owner)) < 0.5, favourite, other), owner


def _unevenness(labels: np.ndarray, fold: np.ndarray, n: int) -> float:
    """Mean over the classes of the deviation of their shares over the folds."""
    counts = np.stack([np.bincount(labels[fold == f], minlength=6) for f in range(n)])
    return float((counts / counts.sum(0)).std(0).mean())


def test_groups_stay_whole_and_stratified() -> None:
    """Reference: StratifiedGroupKFold; on 20 data sets together no less even than it by 5 %."""
    random = np.random.default_rng(0)
    ours, theirs = [], []
    for _ in range(20):
        labels, groups = _rows(random, 60)
        folds = deal(labels, 5, groups)
        for group in np.unique(groups):
            assert len(np.unique(folds.fold[groups == group])) == 1, f"group {group} is cut"
        held_out = folds.fold >= 0
        fold = np.empty(len(labels), int)
        dealt = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        for number, (_, test) in enumerate(dealt.split(labels, labels, groups)):
            fold[test] = number
        ours.append(_unevenness(labels[held_out], folds.fold[held_out], 5))
        theirs.append(_unevenness(labels, fold, 5))
        sizes = np.bincount(folds.fold[held_out], minlength=5)
        assert sizes.max() < 1.6 * sizes.min(), f"got {sizes}"
        assert np.array_equal(folds.fold, deal(labels, 5, groups).fold)
    assert np.mean(ours) < 1.05 * np.mean(theirs), f"{np.mean(ours)}, {np.mean(theirs)}"


def test_a_row_per_group_is_a_fold_of_rows() -> None:
    """Reference: folds without groups, bit by bit."""
    labels = np.random.default_rng(1).integers(0, 5, 200)
    assert np.array_equal(deal(labels, 5, np.arange(200)[::-1]).fold, deal(labels, 5).fold)
    assert source_units(None) is None
    assert source_units(np.array([7, 3, 5])) is None
    assert source_units(np.array([7, 3, 7, 5])).tolist() == [0, 1, 0, 2]


def test_a_group_with_all_of_a_class_always_trains() -> None:
    """Reference: by hand. Class 2 is in group 9 alone."""
    labels = np.array([0, 1, 0, 1, 0, 1, 2, 0, 1])
    groups = np.array([4, 4, 5, 5, 6, 6, 9, 9, 9])
    folds = deal(labels, 3, groups)
    assert (folds.fold[groups == 9] == -1).all()
    assert sorted({*folds.fold[groups != 9]}) == [0, 1, 2]
    for fold in range(3):
        assert set(labels[folds.trained(fold)]) == {0, 1, 2}
    with pytest.raises(errors.ConfigError, match="4 folds need 4 source groups .* there are 3"):
        deal(labels, 4, groups)
