"""Making a balanced data set long-tailed, and holding balanced splits out of it first.

One legacy `numpy.random.RandomState` serves a whole split: NumPy keeps its stream frozen between
versions, and the LDAM release, whose selection of CIFAR images the field shares, draws from it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featbank import errors


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
    held_out: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Hold balanced splits out of `labels`, then make the rest a long-tailed ``train`` split.

    With nothing held out and seed 0 this selects the images that the LDAM release selects: classes
    in order, each class's rows shuffled, the first n_k taken. n_max is what is left in the smallest
    class.

    Parameters
    ----------
    labels
        [N] int64; every class 0…K−1 occurs.
    imbalance
        IF between 1 and n_max, so that every class keeps a training image. 1 gives the balanced
        split that the longer tails of the same seed are taken from. None keeps all that is left,
        in ascending order.
    seed
        Seed of all draws.
    held_out
        Images per class of each split held out, drawn in this order.

    Returns
    -------
    Rows of `labels` by split: held-out splits in ascending order, a long-tailed ``train`` class by
    class.

    Raises
    ------
    ConfigError
        Where a class is too small for what is held out, or `imbalance` is out of range.
    """
    rng = np.random.RandomState(seed)
    num_classes = int(labels.max()) + 1
    classes = [np.flatnonzero(labels == k) for k in range(num_classes)]
    splits: dict[str, np.ndarray] = {}
    for split, per_class in (held_out or {}).items():
        smallest = min(map(len, classes))
        if per_class >= smallest:
            raise errors.ConfigError(
                f"Holding out {per_class} images per class for {split} leaves nothing to train on: "
                f"the smallest class has {smallest}. Hold out fewer."
            )
        shuffled = [rng.permutation(rows) for rows in classes]
        splits[split] = np.sort(np.concatenate([rows[:per_class] for rows in shuffled]))
        classes = [np.sort(rows[per_class:]) for rows in shuffled]
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
