"""Accuracies of stage 1."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from stage1.inference.evaluate import accuracies


def test_accuracies_match_scikit_learn() -> None:
    """Top-1 and macro against scikit-learn, groups against top-1 of their rows alone."""
    rng = np.random.default_rng(0)
    labels, counts = np.repeat(np.arange(6), 20), np.array([500, 101, 100, 20, 19, 0])
    predictions = np.where(rng.random(120) < 0.6, labels, rng.integers(0, 6, 120))
    measured = accuracies(predictions, labels, train_counts=counts)
    assert measured["top1"] == pytest.approx(100 * accuracy_score(labels, predictions))
    assert measured["macro"] == pytest.approx(100 * balanced_accuracy_score(labels, predictions))
    for name, classes in (("many", (0, 1)), ("medium", (2, 3)), ("few", (4, 5))):
        rows = np.isin(labels, classes)
        assert measured[name] == pytest.approx(100 * (predictions == labels)[rows].mean())


def test_a_group_without_classes_is_none() -> None:
    """Neither 0 nor NaN; a class absent from the split counts nowhere."""
    labels = np.array([0, 0])
    measured = accuracies(np.array([0, 1]), labels, train_counts=np.array([300, 200, 5]))
    assert measured == {"top1": 50, "macro": 50, "many": 50, "medium": None, "few": None}
