"""The classes that a configuration takes for one another most often."""

from __future__ import annotations

import numpy as np


def confused(
    confusions: np.ndarray, per_class: np.ndarray, rows: np.ndarray, counts: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The most confused classes, from most to fewest training samples, and their confusion matrix.

    Parameters
    ----------
    confusions
        Class, predicted class and rows of pairs [M, 3], most frequent first.
    per_class
        Accuracy of each class in percent [K].
    rows
        Rows of each class [K] that `confusions` counts, all seeds together.
    counts
        Training counts [K].
    most
        How many classes; two at least.

    Returns
    -------
    Indices of n ≤ `most` classes, those of the most frequent pairs, and the share of the rows of
    each that goes to each [n, n], percent; NaN for a pair that is not among `confusions`.
    """
    found: dict[int, None] = {}
    for k, other, _ in confusions.tolist():
        if len(found | {k: None, other: None}) <= most:
            found |= {k: None, other: None}
    classes = np.array(sorted(found, key=lambda k: (-counts[k], k)), int)
    place = {int(k): i for i, k in enumerate(classes)}
    matrix = np.full((len(classes), len(classes)), np.nan)
    np.fill_diagonal(matrix, per_class[classes])
    for k, other, wrong in confusions.tolist():
        if k in place and other in place:
            matrix[place[k], place[other]] = 100 * wrong / rows[k]
    return classes, matrix
