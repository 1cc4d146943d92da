"""Classes of a bank: counts, and rows held out of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from featbank import errors
from featbank.wording import listed, number


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the samples of each class: [K] int64."""
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


MOST_UNUSED = 100_000
"""The most classes that labels alone may define if most of them have no row."""


def mostly_unused(used: int, num_classes: int) -> bool:
    """Whether fewer than half of K classes have a row: labels may be ids, or one is a slip."""
    return 2 * used < num_classes


def other_bases(labels: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield a question for each split whose labels seem to count from 1, unlike another's."""
    ends = {split: (int(y.min()), int(y.max())) for split, y in labels.items() if y.size}
    for (split, (low, high)), (other, range_) in itertools.permutations(ends.items(), 2):
        if low == 0 and range_ == (1, high + 1):
            yield (
                f"{split} labels go from 0 to {high}, {other} labels from 1 to {high + 1}: does "
                f"{other} count from 1?"
            )


def require_samples(train_counts: np.ndarray, who: str, remedy: str) -> None:
    """Raise if a class has no training sample.

    Raises
    ------
    EmptyClass
        Naming `who` needs the samples, the first empty classes, and the `remedy`.
    """
    empty = np.flatnonzero(np.asarray(train_counts) == 0)
    if empty.size:
        raise errors.EmptyClass(
            f"{who} needs a training sample in every class; {empty.size} have none: "
            f"{listed(empty, 10)}. {remedy}"
        )


SEEN_VAL = (
    "stage 1 was probably trained on the rows of val: their figures will be too good, and no "
    "calibration is fitted to them. For a val that stage 1 never saw, train with `featbank train "
    "--val-per-class` or `--val-fraction`, or take it from test with `featbank split "
    "--val-from-test`; if stage 1 never saw these rows, add --seen none."
)
"""Warning about a val split whose rows stage 1 was trained on."""


@dataclass(frozen=True)
class HoldOut:
    """Number of rows of each class to move from train or test to val, at most half of a class.

    Either `per_class` or `fraction` is given.

    Attributes
    ----------
    per_class
        The same number ≥ 1 of every class.
    fraction
        A share of every class, 0 < share ≤ ½, rounded; at least one row.
    seed
        Seed of the draw.
    """

    per_class: int | None = None
    fraction: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.per_class is None) == (self.fraction is None):
            raise errors.ConfigError(
                "Holding rows out takes a number per class or a fraction. Give one of the two."
            )
        if self.per_class is not None and self.per_class < 1:
            raise errors.ConfigError(
                f"{self.per_class} rows per class cannot be held out. Give 1 or more."
            )
        if self.fraction is not None and not 0 < self.fraction <= 0.5:
            raise errors.ConfigError(
                f"A fraction of {self.fraction:g} of each class cannot be held out. Give one "
                "above 0 and at most 0.5."
            )

    def sizes(self, counts: np.ndarray) -> np.ndarray:
        """Rows to hold out of classes with `counts` [K] rows: [K] int64."""
        half = counts // 2
        if self.fraction is None:  # per_class may not fit 64 bits
            return np.minimum(half, min(self.per_class or 1, int(half.max(initial=0))))
        return np.minimum(half, np.maximum(np.rint(self.fraction * counts).astype(np.int64), 1))

    @property
    def settings(self) -> dict[str, float]:
        """Entries for the provenance of a bank."""
        if self.fraction is None:
            return {"val_per_class": self.per_class or 0, "seed": self.seed}
        return {"val_fraction": self.fraction, "seed": self.seed}

    def describe(self, held: np.ndarray, counts: np.ndarray, *, of: str = "train") -> str:
        """Describe what was held out of a split: `held` of `counts` rows by class, both [K]."""
        if self.fraction is None:
            rule = f"{self.per_class} per class"
        else:
            share = f"{100 * self.fraction:g}" if self.fraction >= 1e-4 else "less than 0.01"
            rule = f"{share} % of each class, at least 1"
        text = f"{number(int(held.sum()), 'row')} held out of {of}, {rule}, seed {self.seed}"
        if fewer := int(((held < (self.per_class or 1)) & (held > 0)).sum()):
            smaller = number(fewer, "smaller class", "smaller classes")
            text += f"; {smaller} gave at most half of {'its' if fewer == 1 else 'their'} rows"
        if none := int(((held == 0) & (counts > 0)).sum()):
            text += f"; {number(none, 'class', 'classes')} of one row gave none"
        return text


def hold_out(labels: np.ndarray, num_classes: int, how: HoldOut) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of every class to hold out.

    Parameters
    ----------
    labels
        [N] integers in 0…K−1.
    num_classes
        K.
    how
        How many rows of each class to draw.

    Returns
    -------
    Rows kept and rows held out, both ascending.

    Raises
    ------
    EmptyClass
        If no class has a second row.
    """
    rng = np.random.default_rng(how.seed)
    counts = class_counts(labels, num_classes)
    sizes = how.sizes(counts)
    if not sizes.any():
        raise errors.EmptyClass(
            f"No class has a row to spare for val: the largest of {num_classes} classes has "
            f"{counts.max(initial=0)}. Import a val split instead."
        )
    held = [
        rng.choice(np.flatnonzero(labels == k), sizes[k], replace=False)
        for k in np.flatnonzero(sizes)
    ]
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out
