"""Training rows dealt to folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featbank import errors
from stage2.features.folds import Folds, deal, fold_count, fold_name, is_folds


def _labels(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(2, 10))
def test_every_row_is_held_out_once_in_proportion(counts: list[int], n: int) -> None:
    """Reference: the sentences of the module, counted."""
    labels = _labels(counts)
    if sum(size for size in counts if size > 1) < n:
        with pytest.raises(errors.ConfigError, match="Lower --folds"):
            deal(labels, n)
        return
    folds = deal(labels, n)
    held = [folds.held_out(fold) for fold in range(n)]
    sizes = [len(rows) for rows in held]
    assert max(sizes) - min(sizes) <= 1, f"got folds of {sizes}"
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), folds.rows)
    alone = {k for k, size in enumerate(counts) if size == 1}
    assert set(labels[folds.fold < 0]) == alone
    for fold, rows in enumerate(held):
        trained = folds.trained(fold)
        np.testing.assert_array_equal(np.sort(np.r_[rows, trained]), np.arange(len(labels)))
        out = np.bincount(labels[rows], minlength=len(counts))
        for k, size in enumerate(counts):
            least = 0 if size == 1 else size // n
            assert least <= out[k] <= (0 if size == 1 else -(-size // n))
            assert size == 0 or size - out[k] >= 1, "a class that has rows always trains"
        np.testing.assert_array_equal(
            folds.counts(len(counts))[fold], np.bincount(labels[trained], minlength=len(counts))
        )


def test_folds_depend_on_labels_and_n_alone() -> None:
    """Reference: another deal of the same labels; rows of a class are shuffled."""
    labels = _labels([50, 20])
    first, second = deal(labels, 5), deal(labels, 5)
    np.testing.assert_array_equal(first.fold, second.fold)
    of_one_class = first.fold[np.flatnonzero(labels == 0)]
    assert not np.array_equal(of_one_class, np.arange(50) % 5), "the rows are not shuffled"


@pytest.mark.parametrize("n", [1, 0, -3, 101, 2.5, True])
def test_a_wrong_number_of_folds_is_refused(n: int) -> None:
    """Reference: the setting's bounds."""
    with pytest.raises(errors.ConfigError, match="'folds' of the sweep must be an integer"):
        deal(_labels([50, 20]), n)


def test_names_of_folds_are_read_back() -> None:
    """Reference: the name itself."""
    assert Folds(5, np.zeros(0), np.zeros(0)).name == fold_name(5) == "5-fold"
    assert fold_count("10-fold") == 10
    assert is_folds("5-fold")
    assert not any(map(is_folds, ["val", "test", "0-fold", "fold", "05-fold", "5-folds"]))
