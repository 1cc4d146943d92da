"""Converting whole numbers of any type, texts included, to int64 without changing a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.checks import is_utf8
from featbank.settings import shortened
from featbank.wording import number

WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
"""The text of a whole number; `int` and `float` also accept 1_10, 1e1 and digits of any script."""

HIGHEST = np.iinfo(np.int64).max

_BLOCK = 1 << 12
"""Rows checked at a time."""


def as_vector(array: np.ndarray) -> np.ndarray:
    """Flatten [1, N] and [N, 1], the vectors of MATLAB, to [N]; keep other arrays."""
    return array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array


def as_integers(array: np.ndarray, name: str) -> np.ndarray:
    """Convert whole numbers [N], floats and texts included, to int64.

    Raises
    ------
    DataError
        Naming the first row that is no whole number, does not fit int64, or is stored in a type too
        coarse to distinguish it from its neighbours.
    """
    array = as_vector(np.asarray(array))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "biufSU"):
        raise errors.DataError(
            f"{name} have type {array.dtype} and shape {list(array.shape)}. They must be integers "
            f"[N], or names.{_rows_hint(array)}"
        )
    if array.dtype.kind in "SU":
        return _from_texts(as_texts(array, name), name)
    if array.dtype.kind == "f":
        _check_floats(array, name)
    elif array.dtype.kind == "u":
        _check_fits(array > HIGHEST, array, name)
    return array.astype(np.int64)


def as_texts(array: np.ndarray, name: str) -> np.ndarray:
    """Texts [N]; byte strings are decoded as UTF-8.

    Raises
    ------
    DataError
        Naming the first row that is not UTF-8.
    """
    if array.dtype.kind == "U":
        return array
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError:
        row = next(row for row, text in enumerate(array) if not is_utf8(text))
        raise errors.DataError(
            f"{name}: {bytes(array[row])!r} in row {row} is not UTF-8. Save the texts as UTF-8."
        ) from None


def stored_as(dtype: str, exact_below: float) -> np.dtype:
    """The type float32, marked as holding numbers of a coarser type.

    `exact_below` is the first whole number whose neighbour the coarser type cannot represent.
    """
    return np.dtype(np.float32, metadata={"stored": dtype, "exact_below": exact_below})


def plain(whole: str) -> str:
    """Normalise the text of a whole number to the form of `str`, at any length.

    Examples
    --------
    >>> plain("+007.0"), plain("-0"), plain("-12")
    ('7', '0', '-12')
    """
    digits = whole.partition(".")[0].lstrip("+-").lstrip("0") or "0"
    return f"-{digits}" if whole[0] == "-" and digits != "0" else digits


def _from_texts(texts: np.ndarray, name: str) -> np.ndarray:
    distinct, inverse = np.unique(np.char.strip(texts), return_inverse=True)
    whole = np.array([WHOLE.fullmatch(text) is not None for text in distinct], dtype=bool)
    if not whole.all():
        bad = np.flatnonzero(~whole[inverse])
        raise errors.DataError(
            f"{name}: {shortened(str(texts[bad[0]]))} in row {bad[0]} is not a whole number "
            f"({number(bad.size, 'such row')}). Give integers, or names in every row."
        )
    numbers = [plain(text) for text in distinct]
    outside = np.array([not _fits(text) for text in numbers], dtype=bool)
    _check_fits(outside[inverse], texts, name)
    return np.array([int(text) for text in numbers], dtype=np.int64)[inverse]


def _fits(text: str) -> bool:
    return len(text) <= len(str(-HIGHEST)) and -HIGHEST <= int(text) <= HIGHEST


def _check_floats(array: np.ndarray, name: str) -> None:
    broken = np.flatnonzero(~np.isfinite(array) | (array != np.round(array)))
    if broken.size:
        raise errors.DataError(
            f"{name}: {array[broken[0]].item()!r} in row {broken[0]} is not a whole number "
            f"({number(broken.size, 'such row')}). Give integers."
        )
    origin: Mapping[str, Any] = array.dtype.metadata or {}  # see `stored_as`
    stored = origin.get("stored", array.dtype.name)
    below = origin.get("exact_below") or 2 / np.finfo(array.dtype).eps
    coarse = np.flatnonzero(np.abs(array) >= below)
    if coarse.size:
        raise errors.DataError(
            f"{name}: {array[coarse[0]]:.15g} in row {coarse[0]} is stored as {stored}, which from "
            f"{below:,.0f} on merges neighbouring whole numbers "
            f"({number(coarse.size, 'such row')}). Save them as integers."
        )


def _check_fits(outside: np.ndarray, values: np.ndarray, name: str) -> None:
    rows = np.flatnonzero(outside)
    if rows.size:
        raise errors.DataError(
            f"{name}: {shortened(values[rows[0]].item())} in row {rows[0]} does not fit 64 bits "
            f"with sign ({number(rows.size, 'such row')}). Give smaller numbers, or --labels names."
        )


def _rows_hint(array: np.ndarray) -> str:
    """The probable meaning of an array with several values per row, and the remedy."""
    if array.ndim != 2:
        return ""
    if array.dtype.kind in "SU":
        return " Rows of characters are not read: join each row to one text."
    return _ones_hint(array) if array.dtype.kind in "biuf" and array.size else ""


def _ones_hint(array: np.ndarray) -> str:
    """Distinguish one-hot rows from several labels per row, and both from scores."""
    ones = np.zeros(len(array), np.int64)
    for start in range(0, len(array), _BLOCK):
        block = array[start : start + _BLOCK]
        if not ((block == 0) | (block == 1)).all():
            return f" Rows of {array.shape[1]} numbers look like features or scores: give labels."
        ones[start : start + _BLOCK] = (block == 1).sum(1)
    several, none = np.flatnonzero(ones > 1), np.flatnonzero(ones == 0)
    if several.size:
        row = several[0]
        return (
            f" Row {row} has {ones[row]} ones ({number(several.size, 'row')} with several): these "
            "are several labels per row, and a bank has one."
        )
    if none.size:
        return f" Row {none[0]} is all zeros ({number(none.size, 'such row')}), so it has no label."
    return " Of one-hot rows take argmax(axis=1)."
