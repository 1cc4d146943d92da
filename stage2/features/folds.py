"""Folds of the training rows: who is held out when, in cross-validation.

The rows of each class are shuffled by a fixed seed and dealt to the n folds in turn, class after
class. A fold therefore holds out ⌊n_k/n⌋ or one more of the n_k rows of a class, and folds differ
by at most one row overall. A class of fewer rows than folds is spread over as many folds as it has
rows, so that each of its rows is held out once and the others train meanwhile. The row of a class
of one always trains and is never held out. Copies of a row stay together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from featbank import errors
from featbank.bank import Bank
from featbank.settings import Setting

FOLDS = Setting(
    "folds",
    None,
    "rank by cross-validation: train on n − 1 of n parts of train, measure on the other",
    low=2,
    high=100,
    kind=int,
)
"""The number of folds."""

SEED = 0
"""Seed of the shuffle within the classes: folds depend on labels and n alone."""

_NAME = re.compile(r"([1-9]\d{0,2})-fold")


@dataclass(frozen=True)
class Folds:
    """Training rows dealt to folds.

    Attributes
    ----------
    count
        n.
    labels
        Labels of the training rows [N].
    fold
        The fold that holds each row out, −1 for rows that always train, [N].
    """

    count: int
    labels: np.ndarray
    fold: np.ndarray

    @property
    def name(self) -> str:
        """The split that the rows held out make up in results, such as ``5-fold``."""
        return fold_name(self.count)

    @property
    def rows(self) -> np.ndarray:
        """Every row that is held out once, in the bank's order."""
        return np.flatnonzero(self.fold >= 0)

    def held_out(self, fold: int) -> np.ndarray:
        """The rows that a fold holds out, in the bank's order."""
        return np.flatnonzero(self.fold == fold)

    def trained(self, fold: int) -> np.ndarray:
        """The rows that a fold trains on, in the bank's order."""
        return np.flatnonzero(self.fold != fold)

    def counts(self, num_classes: int) -> list[np.ndarray]:
        """Rows of each class that each fold trains on, [K] float64."""
        trained = [self.labels[self.trained(fold)] for fold in range(self.count)]
        return [np.bincount(y, minlength=num_classes).astype(np.float64) for y in trained]


def deal(labels: np.ndarray, count: int) -> Folds:
    """Deal training rows to folds.

    Parameters
    ----------
    labels
        [N].
    count
        n, 2 … 100.

    Raises
    ------
    ConfigError
        For another n, or where fewer rows than folds can be held out.
    """
    FOLDS.check(count, "the sweep")
    sizes = np.bincount(labels)
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    dealt = by_class[sizes[labels[by_class]] > 1]
    if len(dealt) < count:
        raise errors.ConfigError(
            f"{count} folds need {count} training rows in classes of two or more, there are "
            f"{len(dealt)}. Lower --folds."
        )
    fold = np.full(len(labels), -1)
    fold[dealt] = np.arange(len(dealt)) % count
    return Folds(count, labels, fold)


def fold_counts(bank: Bank, count: int) -> list[np.ndarray]:
    """Rows of each class that each of n folds of a bank trains on, [K] float64."""
    return deal(bank.labels("train"), count).counts(bank.num_classes)


def fold_name(count: int) -> str:
    """The split that the held-out rows of n folds make up in results."""
    return f"{count}-fold"


def is_folds(split: object) -> bool:
    """Whether a split of results is made up of rows that folds held out; files hold anything."""
    return isinstance(split, str) and _NAME.fullmatch(split) is not None


def fold_count(split: str) -> int:
    """n of the split that the held-out rows of n folds make up."""
    return int(split.removesuffix("-fold"))
