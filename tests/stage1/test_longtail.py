"""Long-tailed counts and the choice of images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featbank import errors
from stage1.data.longtail import long_tail_counts, long_tail_split


@pytest.mark.parametrize(
    ("num_classes", "imbalance", "total"),
    [
        (100, 10, 19573),
        (100, 50, 12608),
        (100, 100, 10847),
        (100, 200, 9502),
        (10, 10, 20431),
        (10, 50, 13996),
        (10, 100, 12406),
    ],
)
def test_cifar_counts_match_the_literature(num_classes: int, imbalance: int, total: int) -> None:
    """Against the totals of METHODS.md §9, and class by class against the LDAM release's int()."""
    n_max = 50000 // num_classes
    counts = long_tail_counts(n_max, num_classes, imbalance)
    assert counts.sum() == total
    released = [
        int(n_max * (1 / imbalance) ** (k / (num_classes - 1.0))) for k in range(num_classes)
    ]
    assert counts.tolist() == released


@given(st.integers(1, 6000), st.integers(2, 300), st.data())
def test_counts_fall_from_n_max_to_n_max_over_imbalance(
    n_max: int, num_classes: int, data: st.DataObject
) -> None:
    """Against integer division at both ends, where rounding would lose an image."""
    imbalance = data.draw(st.integers(1, n_max))
    counts = long_tail_counts(n_max, num_classes, imbalance)
    assert counts[0] == n_max
    assert counts[-1] == n_max // imbalance
    assert (np.diff(counts) <= 0).all()


def test_selection_is_that_of_the_ldam_release() -> None:
    """Against the release's protocol on NumPy's global generator, written out step by step."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 60))
    np.random.seed(0)
    expected = []
    for k, n in enumerate(long_tail_counts(60, 10, 20)):
        rows = np.where(labels == k)[0]
        np.random.shuffle(rows)
        expected.extend(rows[:n].tolist())
    assert long_tail_split(labels, 20)["train"].tolist() == expected


def test_held_out_splits_are_balanced_disjoint_and_seeded() -> None:
    """Against the definition: equal counts per class, no row twice, n_max is what is left."""
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [50, 40, 60]))
    splits = long_tail_split(labels, 5, seed=3, held_out={"val": 4, "test": 6})
    assert np.bincount(labels[splits["val"]]).tolist() == [4, 4, 4]
    assert np.bincount(labels[splits["test"]]).tolist() == [6, 6, 6]
    assert np.bincount(labels[splits["train"]]).tolist() == [30, 13, 6]
    rows = np.concatenate(list(splits.values()))
    assert len(set(rows.tolist())) == len(rows)
    again = long_tail_split(labels, 5, seed=3, held_out={"val": 4, "test": 6})
    other = long_tail_split(labels, 5, seed=4, held_out={"val": 4, "test": 6})
    assert all((splits[name] == again[name]).all() for name in splits)
    assert any((splits[name] != other[name]).any() for name in splits)


def test_without_an_imbalance_all_that_is_left_stays() -> None:
    """Reference: the rows that are not held out, which no imbalance changes."""
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [50, 40, 60]))
    natural = long_tail_split(labels, None, seed=3, held_out={"test": 6})
    tailed = long_tail_split(labels, 5, seed=3, held_out={"test": 6})
    assert (natural["test"] == tailed["test"]).all()
    assert natural["train"].tolist() == np.setdiff1d(np.arange(150), natural["test"]).tolist()


def test_a_balanced_train_split_has_the_rows_of_every_longer_tail() -> None:
    """Reference: an imbalance of 1 with the same seed, n_max = 40 − 6 of each class."""
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [50, 40, 60]))
    whole = long_tail_split(labels, 1, seed=3, held_out={"test": 6})["train"]
    assert np.bincount(labels[whole]).tolist() == [34] * 3
    for imbalance in (2, 34):
        part = long_tail_split(labels, imbalance, seed=3, held_out={"test": 6})["train"]
        assert set(part) < set(whole)


def test_too_much_held_out_or_too_long_a_tail() -> None:
    """Both would leave a class without a training image."""
    labels = np.repeat([0, 1], 10)
    with pytest.raises(errors.ConfigError, match=r"Holding out 10 .* the smallest class has 10"):
        long_tail_split(labels, 2, held_out={"val": 10})
    with pytest.raises(errors.ConfigError, match="must be a float from 1 to 10, got 11"):
        long_tail_split(labels, 11)


def test_a_natural_tail_gives_at_most_half_of_a_class() -> None:
    """Reference: by hand; what a class of 20 gives is what it gave before, classes of one give
    none, and all of this is said."""
    counts = [20, 9, 5, 2, 1]
    labels = np.repeat(np.arange(5), counts)
    with pytest.warns(UserWarning, match="gave half of them") as caught:
        splits = long_tail_split(labels, None, seed=1, held_out={"test": 6, "val": 2})
    assert np.bincount(labels[splits["test"]], minlength=5).tolist() == [6, 4, 2, 1, 0]
    assert np.bincount(labels[splits["val"]], minlength=5).tolist() == [2, 2, 1, 0, 0]
    assert np.bincount(labels[splits["train"]], minlength=5).tolist() == [12, 3, 2, 1, 1]
    assert sorted(np.concatenate(list(splits.values()))) == list(range(37))
    messages = [str(warning.message) for warning in caught]
    assert messages[0] == (
        "test: 4 of 5 classes have fewer than 12 images and gave half of them, not 6; 1 gave none."
    )
    with pytest.raises(errors.ConfigError, match="No class has an image to spare for val"):
        long_tail_split(np.arange(3), None, held_out={"val": 1})


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([30, 11, 30], "1 of 3 classes has fewer than 14 images and gave half of them, not 7."),
        ([13, 11, 2], "3 of 3 classes have fewer than 14 images and gave half of them, not 7."),
        ([13, 1, 1], "3 of 3 classes have fewer than 14 images and gave half of them, not 7; 2"),
    ],
)  # fmt: skip
def test_only_what_happened_is_said(counts: list[int], words: str) -> None:
    """Classes that gave none only where there are some; one class has."""
    labels = np.repeat(np.arange(3), counts)
    with pytest.warns(UserWarning, match="gave half") as caught:
        long_tail_split(labels, None, held_out={"val": 7})
    assert words in str(caught[0].message)
