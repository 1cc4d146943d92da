"""Accuracy of a stage-1 classifier on the rows it was trained on, compared with chance.

With classes in another order, the classifier of another view, a missing bias or features of another
scale, arrays are still well-formed; only this accuracy reveals the mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from featbank.bank.rows import as_stored

BLOCK_BYTES = 1 << 25
"""Features and logits held at a time."""

MOST_WORK = 1 << 38
"""The most multiplications to spend; larger train splits are sampled in blocks spread evenly."""


@dataclass(frozen=True)
class Agreement:
    """Accuracies of a classifier on rows of train.

    `right` is the accuracy over the rows sampled, `by_class` the mean over the classes that have
    some. Chance is 1/K for both; only `by_class` is compared with it, because a classifier that
    always predicts the largest class is right on its share of a long-tailed train split, whatever
    K.
    """

    sampled: int
    rows: int
    right: float
    by_class: float
    num_classes: int

    @property
    def near_chance(self) -> bool:
        """Whether `by_class` is at most a tenth of the way from chance to 1."""
        chance = 1 / self.num_classes
        return self.by_class <= chance + 0.1 * (1 - chance)

    def __str__(self) -> str:
        rows = f"{self.rows:,}"
        if self.sampled < self.rows:
            rows = f"{self.sampled:,} of {rows}"
        return (
            f"right on {_percent(self.right)} of {rows} train row{'s' * (self.rows != 1)} "
            f"(chance {_percent(1 / self.num_classes)}), {_percent(self.by_class)} averaged by "
            "class"
        )


NEAR_CHANCE = (
    "near chance: are the rows of W in label order, and W, its bias and the features' scale those "
    "of this view?"
)


def agreement(
    read: Callable[[int, int], np.ndarray],
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    name: str,
) -> Agreement | None:
    """Measure the accuracy of a classifier block by block; None without rows.

    Parameters
    ----------
    read
        Returns the features [n, D] of the rows start … stop − 1.
    labels
        [N] integers in 0…K−1.
    weight, bias
        [K, D] and [K], or None for zeros.
    name
        Name of the features in errors.

    Raises
    ------
    NotFinite
        If a feature is NaN, infinite or too large for float32.
    """
    classes, dim = weight.shape
    transposed = np.ascontiguousarray(weight.astype(np.float32).T)
    offset = np.float32(0) if bias is None else bias.astype(np.float32)
    right, seen = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for start, stop in _spread(len(labels), classes, dim):
        x = as_stored(read(start, stop), np.dtype(np.float32), name, first_row=start)
        with np.errstate(over="ignore", invalid="ignore"):
            predicted = (x @ transposed + offset).argmax(axis=1)
        y = labels[start:stop]
        seen += np.bincount(y, minlength=classes)
        right += np.bincount(y[predicted == y], minlength=classes)
    if not seen.any():
        return None
    return Agreement(
        sampled=int(seen.sum()),
        rows=len(labels),
        right=float(right.sum() / seen.sum()),
        by_class=float((right[seen > 0] / seen[seen > 0]).mean()),
        num_classes=classes,
    )


def _spread(rows: int, classes: int, dim: int) -> Iterator[tuple[int, int]]:
    """Yield blocks of all rows, or 256 short ones spread evenly if all are too much work."""
    step = max(1, BLOCK_BYTES // (4 * (classes + dim)))
    most = max(1, MOST_WORK // (classes * dim))
    if rows <= most:
        yield from ((start, min(start + step, rows)) for start in range(0, rows, step))
        return
    blocks = min(256, most)
    size = min(step, math.ceil(most / blocks))
    for block in range(blocks):
        start = block * rows // blocks
        yield start, min(start + size, (block + 1) * rows // blocks)


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.1f} %" if percent == 0 or percent >= 0.1 else f"{percent:.2g} %"
