"""Cut a balanced data set to a long tail, after holding balanced splits out of it.

One legacy `numpy.random.RandomState` serves a whole split: NumPy never changes its stream, and the
LDAM release, whose selection of CIFAR images the field shares, draws from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from featbank import errors
from featbank.bank import HoldOut


def long_tail_counts(n_max: int, num_classes: int, imbalance: float) -> np.ndarray:
    """Training counts n_k = ⌊n_max · IF^(−k/(K−1))⌋ of the exponential profile [LDAM §4].

    Parameters
    ----------
    n_max
        Count of class 0, the most frequent.
    num_classes
        K ≥ 2.
    imbalance
        IF = n_max / n_min ≥ 1.

    Returns
    -------
    [K] int64
    """
    # Divided, not multiplied by a negative power: 49 · (1/49) is 0.999… and would lose an image.
    k = np.arange(num_classes)
    return np.floor(n_max / imbalance ** (k / (num_classes - 1))).astype(np.int64)


def long_tail_split(
    labels: np.ndarray,
    imbalance: float | None,
    *,
    seed: int = 0,
    held_out: Mapping[str, int | float] | None = None,
) -> dict[str, np.ndarray]:
    """Hold balanced splits out of `labels`, then make the rest a long-tailed ``train`` split.

    With nothing held out and seed 0 this selects the images that the LDAM release selects: classes
    in order, each class's rows shuffled, the first n_k taken. n_max is the number of images left in
    the smallest class.

    Parameters
    ----------
    labels
        [N] int64; every class 0…K−1 occurs.
    imbalance
        IF between 1 and n_max, so that every class keeps a training image. 1 gives the balanced
        split that the longer tails of the same seed are taken from. None keeps all remaining rows,
        in ascending order.
    seed
        Seed of all draws.
    held_out
        Images per class of each split held out, or a share of each class as a float, drawn in this
        order; without an `imbalance` at most half of a class, with a warning, since classes of a
        natural tail may be small. A share rounds, takes one image at least and half of a class at
        most.

    Returns
    -------
    Rows of `labels` by split: held-out splits in ascending order, a long-tailed ``train`` class by
    class.

    Raises
    ------
    ConfigError
        For a class too small to hold images out of, or an `imbalance` out of range.
    """
    rng = np.random.RandomState(seed)
    num_classes = int(labels.max()) + 1
    classes = [np.flatnonzero(labels == k) for k in range(num_classes)]
    splits: dict[str, np.ndarray] = {}
    for split, per_class in (held_out or {}).items():
        sizes = _held_sizes([len(rows) for rows in classes], per_class, split, imbalance)
        shuffled = [rng.permutation(rows) for rows in classes]
        pairs = list(zip(shuffled, sizes, strict=True))
        splits[split] = np.sort(np.concatenate([rows[:n] for rows, n in pairs]))
        classes = [np.sort(rows[n:]) for rows, n in pairs]
    if imbalance is None:
        splits["train"] = np.sort(np.concatenate(classes))
        return splits
    n_max = min(map(len, classes))
    if not 1 <= imbalance <= n_max:
        raise errors.ConfigError(
            f"The 'imbalance' must be a float from 1 to {n_max}, got {imbalance:g}: the largest "
            f"class has {n_max} training images and the smallest must keep one."
        )
    for rows in classes:
        rng.shuffle(rows)
    counts = long_tail_counts(n_max, num_classes, imbalance)
    splits["train"] = np.concatenate([rows[:n] for rows, n in zip(classes, counts, strict=True)])
    return splits


def _held_sizes(
    counts: Sequence[int], per_class: int | float, split: str, imbalance: float | None
) -> list[int]:
    """Numbers of images to hold out for a split, by class."""
    smallest = min(counts)
    if isinstance(per_class, float):
        sizes = HoldOut(fraction=per_class).sizes(np.asarray(counts)).tolist()
        _require_some(sizes, counts, split)
        return sizes
    if imbalance is not None:
        if per_class >= smallest:
            raise errors.ConfigError(
                f"Holding out {per_class} images per class for {split} leaves nothing to train on: "
                f"the smallest class has {smallest}. Hold out fewer."
            )
        return [per_class] * len(counts)
    sizes = [min(per_class, n // 2) for n in counts]
    _require_some(sizes, counts, split)
    if fewer := sum(n < per_class for n in sizes):
        none = f"; {sizes.count(0)} gave none" if 0 in sizes else ""
        have = "has" if fewer == 1 else "have"
        warnings.warn(
            f"{split}: {fewer} of {len(counts)} classes {have} fewer than {2 * per_class} images "
            f"and gave half of them, not {per_class}{none}."
        )
    return sizes


def _require_some(sizes: Sequence[int], counts: Sequence[int], split: str) -> None:
    """Raise if no class can give an image."""
    if not any(sizes):
        raise errors.ConfigError(
            f"No class has an image to spare for {split}: the largest has {max(counts)}. "
            f"Give {split} images of its own."
        )
