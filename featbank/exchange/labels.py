"""Labels as people keep them become labels 0…K−1: columns, whole floats, names, MATLAB's base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.exchange.formats import readable, require_file


def as_vector(array: np.ndarray) -> np.ndarray:
    """[1, N] and [N, 1], as MATLAB keeps vectors, as [N]; others as they are."""
    return array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array


def as_integers(array: np.ndarray, what: str) -> np.ndarray:
    """Whole numbers [N] as int64, be they kept as floats or as texts.

    Raises
    ------
    DataError
        Naming the first row that is no whole number.
    """
    array = as_vector(np.asarray(array))
    if array.ndim != 1 or array.dtype.kind not in "biufU":
        hint = " Of one-hot rows take argmax(axis=1)." if array.ndim == 2 else ""
        raise errors.DataError(
            f"{what} have type {array.dtype} and shape {list(array.shape)}. They must be "
            f"integers [N].{hint}"
        )
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    numbers = np.array([_number(value) for value in array])
    broken = np.flatnonzero(~np.isfinite(numbers) | (numbers != np.round(numbers)))
    if broken.size:
        row = broken[0]
        raise errors.DataError(
            f"{what}: {array[row].item()!r} in row {row} is not a whole number ({broken.size} "
            "such rows). Give integers."
        )
    return numbers.astype(np.int64)


def as_labels(array: np.ndarray, what: str) -> np.ndarray:
    """Labels [N] as int64, or as texts where they are names: where none is a number."""
    array = as_vector(np.asarray(array))
    if array.ndim == 1 and array.dtype.kind == "U":
        array = np.char.strip(array)
        if array.all() and np.isnan([_number(text) for text in array]).all():
            return array
    return as_integers(array, what)


def number_labels(
    labels: Mapping[str, np.ndarray], names: Sequence[str] | None, *, base: int = 0
) -> tuple[dict[str, np.ndarray], Sequence[str] | None]:
    """Labels of all splits as int64 counted from 0, and the class names.

    Parameters
    ----------
    labels
        ``{split: [N]}`` integers, or names (see `as_labels`) in every split.
    names
        K class names in label order; without them, names are numbered in sorted order.
    base
        What integer labels count from, 0 or 1.

    Raises
    ------
    DataError
        For a name that is not in `names`, or a label below `base`.
    """
    known = {split: as_labels(y, f"{split} labels") for split, y in labels.items()}
    texts = [split for split, y in known.items() if y.dtype.kind == "U" and y.size]
    if not texts:
        return {
            split: _lowered(y.astype(np.int64), base, split) for split, y in known.items()
        }, names
    if base or len(texts) < sum(y.size > 0 for y in known.values()):
        numbers = "--label-base counts numbers" if base else "other splits have numbers"
        raise errors.DataError(
            f"{texts[0]} labels are names such as {str(known[texts[0]][0])!r}, but {numbers}. "
            "Give names everywhere or numbers everywhere."
        )
    if names is None:
        names = np.unique(np.concatenate([known[split] for split in texts])).tolist()
    return {split: _numbered(y, names, split) for split, y in known.items()}, names


def read_class_names(path: Path) -> list[str]:
    """Read one class name per line."""
    require_file(path)
    with readable(path):
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]


def _number(value: str | float) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")


def _lowered(labels: np.ndarray, base: int, split: str) -> np.ndarray:
    below = np.flatnonzero(labels < base)
    if base and below.size:
        raise errors.DataError(
            f"{split}: label {labels[below[0]]} in row {below[0]} is below --label-base {base}. "
            "Leave the option out where labels count from 0."
        )
    return labels - base


def _numbered(labels: np.ndarray, names: Sequence[str], split: str) -> np.ndarray:
    place = {name: k for k, name in enumerate(names)}
    if len(place) < len(names):
        twice = next(name for k, name in enumerate(names) if place[name] != k)
        raise errors.DataError(f"Class name {twice!r} comes twice. Labels by name need each once.")
    for row, name in enumerate(labels):
        if name not in place:
            raise errors.DataError(
                f"{split}: label {str(name)!r} in row {row} is not among the class names. "
                f"They begin {', '.join(names[:3])}.{errors.did_you_mean(name, names)}"
            )
    return np.array([place[name] for name in labels], dtype=np.int64)
