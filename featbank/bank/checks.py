"""Arrays on their way into a bank: each defect gets its own error, with place and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featbank import errors


def as_copies(array: np.ndarray, split: str, view: str) -> np.ndarray:
    """Features as [A, N, D]; two axes mean one copy."""
    array = np.asarray(array)
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
        raise errors.DataError(
            f"{split}/{view}: features have type {array.dtype} and shape {list(array.shape)}. "
            "They must be numbers [N, D], or [A, N, D] with A augmentation copies."
        )
    return array if array.ndim == 3 else array[None]


def checked_labels(labels: np.ndarray, split: str, num_classes: int) -> np.ndarray:
    """Labels [N] as int64, each in 0…K−1."""
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise errors.DataError(
            f"{split}: labels have type {labels.dtype} and shape {list(labels.shape)}. "
            "They must be integers [N]."
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        raise errors.LabelRange(
            f"{split}: label {labels[outside[0]]} in row {outside[0]} is outside 0…"
            f"{num_classes - 1} ({outside.size} such rows). Check the labels or the class names."
        )
    return labels.astype(np.int64)


def check_finite(block: np.ndarray, name: str, *, first_row: int = 0) -> None:
    """Raise where a value is NaN or infinite, naming the first such row."""
    finite = np.isfinite(block)
    if not finite.all():
        bad = np.flatnonzero(~finite.reshape(len(block), -1).all(axis=1))
        raise errors.NotFinite(
            f"{name}: NaN or infinity in row {first_row + bad[0]} ({bad.size} such rows). "
            "Repair or drop these rows."
        )


def check_same_length(split: str, **columns: Any) -> None:
    """Raise where columns of a split differ in length, naming the lengths."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} in {name}" for name, length in lengths.items())
        raise errors.DataError(f"{split}: row counts disagree: {told}. Every row needs each.")


def check_choice(what: str, value: str, choices: Sequence[str]) -> str:
    """Return `value`, or raise naming the closest of `choices`."""
    if value not in choices:
        raise errors.ConfigError(
            f"Unknown {what} {value!r}. {errors.closest(value, list(choices))}"
        )
    return value
