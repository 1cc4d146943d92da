"""Turning columns of a table into arrays: texts, and vectors from texts or numbered columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.settings import shortened

LONGEST_TEXT = 4096
"""The most characters of a cell that is no vector, such as a path."""


def arrange(path: Path, header: Sequence[str]) -> dict[str, list[str]]:
    """Group the columns of a table by key.

    Columns that differ by a number counting up from 0 or 1 share a key, their common name
    (``embedding`` if they are numbers alone); every other column is a key by itself.

    Raises
    ------
    DataError
        If a column comes twice.

    Examples
    --------
    >>> arrange(Path("t.csv"), ["label", "f_0", "f_1"])
    {'label': ['label'], 'f': ['f_0', 'f_1']}
    """
    counts = Counter(header)
    for column in header:
        if counts[column] > 1:
            raise errors.DataError(f"{path}: column {shortened(column)} comes twice. Rename one.")
    numbered: dict[str, dict[int, str]] = {}
    for column in header:
        if match := re.fullmatch(r"(.*?)[_.\- ]?([0-9]{1,9})", column):
            numbered.setdefault(match[1] or "embedding", {})[int(match[2])] = column
    groups = {
        name: [columns[i] for i in sorted(columns)]
        for name, columns in numbered.items()
        if len(columns) > 1 and name not in counts and _counts_up(sorted(columns))
    }
    grouped = {column for columns in groups.values() for column in columns}
    return {**{column: [column] for column in header if column not in grouped}, **groups}


def parsed(place: str, texts: Sequence[str]) -> np.ndarray:
    """Parse texts as vectors [N, D] float32 if the first is one, else keep the texts [N]."""
    if texts and is_vector(texts[0]):
        return stacked(place, map(_cells, texts))
    longest = max(range(len(texts)), key=lambda row: len(texts[row]), default=0)
    if texts:
        check_text(place, longest, len(texts[longest]))
    return text_array(place, texts)


def text_array(place: str, texts: Sequence[object]) -> np.ndarray:
    """Texts as an array [N]. A NUL is refused: NumPy would drop it at the end of a text.

    Raises
    ------
    DataError
        For a text with a NUL.
    """
    for row, text in enumerate(texts):
        if "\0" in str(text):
            raise errors.DataError(f"{place}: {text!r} in row {row} has a NUL. Remove it.")
    return np.array(texts, dtype=str)


def stacked(place: str, vectors: Iterable[Sequence[str]]) -> np.ndarray:
    """Parse rows of texts as numbers [N, D] float32."""
    rows: list[np.ndarray] = []
    for n, cells in enumerate(vectors):
        try:
            rows.append(np.array(cells, dtype=np.float32))
        except ValueError as error:
            raise errors.DataError(
                f"{place}: row {n} is not a vector of numbers ({error}). Repair the row."
            ) from None
        check_length(place, n, len(rows[-1]), len(rows[0]))
    return np.stack(rows) if rows else np.empty((0, 0), np.float32)


def check_text(place: str, row: int, length: int) -> None:
    """Raise if a text is implausibly long: every row of the array would take as much room."""
    if length > LONGEST_TEXT:
        raise errors.DataError(
            f"{place}: the text in row {row} has {length:,} characters, at most {LONGEST_TEXT:,} "
            "are read. Shorten it."
        )


def check_length(place: str, row: int, length: int, expected: int) -> None:
    """Raise if a vector does not have the length of the first."""
    if length != expected:
        raise errors.DataError(
            f"{place}: the vector in row {row} has {length} numbers, the first has {expected}. "
            "Repair the row."
        )


def _counts_up(numbers: Sequence[int]) -> bool:
    return numbers[0] in (0, 1) and list(numbers) == list(range(numbers[0], numbers[-1] + 1))


def _cells(text: str) -> list[str]:
    return text.strip().strip("[]()").replace(",", " ").split()


def is_vector(text: str) -> bool:
    """Whether a cell is the text of a vector."""
    if text.strip().startswith("["):
        return True
    try:
        return len([float(cell) for cell in _cells(text)]) > 1
    except ValueError:
        return False
