"""Classes of a bank: counts, and the groups many / medium / few that follow from them."""

from __future__ import annotations

import numpy as np

from featbank import errors

GROUPS = {"many": "n > 100", "medium": "20 ≤ n ≤ 100", "few": "n < 20"}
"""The field's groups by training count n, the thresholds as every table states them."""


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the samples of each class: [K] int64."""
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def class_groups(train_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Boolean masks [K] of the groups `GROUPS`, from the training counts [K]."""
    n = np.asarray(train_counts)
    return {"many": n > 100, "medium": (n >= 20) & (n <= 100), "few": n < 20}


def require_samples(train_counts: np.ndarray, who: str, remedy: str) -> None:
    """Raise where a class has no training sample.

    Raises
    ------
    EmptyClass
        Naming `who` needs them, the first empty classes, and the `remedy`.
    """
    empty = np.flatnonzero(np.asarray(train_counts) == 0)
    if empty.size:
        names = ", ".join(map(str, empty[:10])) + (", …" if empty.size > 10 else "")
        raise errors.EmptyClass(
            f"{who} needs a training sample in every class; {empty.size} have none: {names}. "
            f"{remedy}"
        )


def hold_out(
    labels: np.ndarray, per_class: int, num_classes: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `per_class` rows of every class for another split.

    Parameters
    ----------
    labels
        [N] integers in 0…K−1.
    per_class
        Rows to hold out of each class that has rows.
    seed
        Seed of the draw.

    Returns
    -------
    Rows kept and rows held out, both ascending.

    Raises
    ------
    EmptyClass
        Where a class would keep no row.
    """
    rng = np.random.default_rng(seed)
    held = []
    for k in range(num_classes):
        rows = np.flatnonzero(labels == k)
        if 0 < len(rows) <= per_class:
            raise errors.EmptyClass(
                f"Holding out {per_class} rows per class leaves class {k} none: it has "
                f"{len(rows)}. Hold out fewer."
            )
        held.append(rng.choice(rows, per_class, replace=False) if len(rows) else rows)
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out
