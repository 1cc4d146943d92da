"""Arrays that stay in their file: rows are read when they are sliced."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.exchange.arrayfile import readable, require_room

HELD_BYTES = 1 << 26
"""Larger arrays of rows stay in their file, smaller ones are read at once."""

_FAR = 8
"""Unwanted rows between two wanted ones that are read along with them."""

Array = Any
"""A NumPy array or an `OnDisk`."""


@dataclass(frozen=True)
class OnDisk:
    """An array of numbers in a file, indexed as a NumPy array is.

    An integer or None as the index, and `squeeze`, give an `OnDisk` of other axes; a slice or
    numbers of rows read these rows.

    Parameters
    ----------
    path
        The file, for messages.
    stored, dtype
        Shape and type in the file.
    read
        Called with integers for the first axes and a slice of the next; returns these rows.
    lead
        Integers that are already chosen on the first axes.
    axes
        The shape that is shown: that of what remains, but for axes of length 1.
    """

    path: Path
    stored: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[tuple[Any, ...]], np.ndarray]
    lead: tuple[int, ...] = ()
    axes: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.stored if self.axes is None else self.axes

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Count of numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def squeeze(self, axes: tuple[int, ...]) -> OnDisk:
        """The array without these axes of length 1."""
        return replace(self, axes=tuple(n for i, n in enumerate(self.shape) if i not in axes))

    def __getitem__(self, key: Any) -> Any:
        if key is None:
            return replace(self, axes=(1, *self.shape))
        if isinstance(key, tuple):
            taken, rest = self[key[0]], key[1:]
            if not rest:
                return taken
            return taken[rest] if isinstance(key[0], int) else taken[(slice(None), *rest)]
        if isinstance(key, int | np.integer):
            return self._one(int(key))
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._rows(start, stop) if step == 1 else self[np.arange(start, stop, step)]
        return self._chosen(np.arange(len(self))[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        require_room(str(self.path), self.nbytes)
        return self[:].astype(dtype or self.dtype, copy=False)

    def _one(self, place: int) -> OnDisk:
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        if len(self) == 1:
            return self.squeeze((0,))
        return replace(self, lead=(*self._front(), place % len(self)), axes=self.shape[1:])

    def _front(self) -> tuple[int, ...]:
        """`lead`, and 0 on the axes of length 1 up to the first that is shown."""
        rest = self.stored[len(self.lead) :]
        skipped = next((i for i, n in enumerate(rest) if n != 1), 0)
        return (*self.lead, *[0] * skipped)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        rows = max(0, stop - start)
        if len(self) == 1:  # whatever axis that is in the file
            place = (*self.lead, slice(0, self.stored[len(self.lead)]))
        else:
            place = (*self._front(), slice(start, start + rows))
        if not rows or 0 in self.shape:
            return np.empty((rows, *self.shape[1:]), self.dtype)
        with readable(self.path):
            block = np.asarray(self.read(place), self.dtype)
        return block.reshape(rows, *self.shape[1:])

    def _chosen(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, in any order; those that lie together are read together."""
        ordered, inverse = np.unique(rows, return_inverse=True)
        runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > _FAR) + 1)
        blocks = [
            self._rows(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs if run.size
        ]
        blocks = blocks or [np.empty((0, *self.shape[1:]), self.dtype)]
        return np.concatenate(blocks)[inverse]


def by_rows(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    rows: Callable[[int, int], np.ndarray],
) -> Array:
    """The array whose rows start … stop − 1 are ``rows(start, stop)``: `held` if it is small."""

    def read(place: tuple[Any, ...]) -> np.ndarray:
        *lead, last = place
        if not lead:
            return rows(last.start, last.stop)
        return rows(lead[0], lead[0] + 1)[0][(*lead[1:], last)]

    return held(OnDisk(path, shape, dtype, read))


def held(array: OnDisk) -> Array:
    """`array`, read at once if it is small, or has one axis."""
    return np.asarray(array) if array.ndim < 2 or array.nbytes <= HELD_BYTES else array


def joined(path: Path, parts: Sequence[Array]) -> Array:
    """The rows of several files as one array.

    Raises
    ------
    DataError
        If they differ in the kind of their values or in the length of an axis but the first.
    """
    first = parts[0]
    for number, part in enumerate(parts):
        kinds = {_kind(part), _kind(first)}
        if part.ndim == 0 or part.shape[1:] != first.shape[1:] or len(kinds) > 1:
            raise errors.DataError(
                f"{path}: file {number + 1} has {part.dtype} {list(part.shape)}, the first has "
                f"{first.dtype} {list(first.shape)}. Save all alike."
            )
    if first.dtype.kind not in "biuf" or first.ndim < 2:
        return np.concatenate([np.asarray(part) for part in parts])
    starts = [0, *np.cumsum([len(part) for part in parts]).tolist()]
    dtype = np.result_type(*(part.dtype for part in parts))

    def rows(start: int, stop: int) -> np.ndarray:
        blocks = []
        for k in range(bisect.bisect_right(starts, start) - 1, len(parts)):
            if starts[k] >= stop:
                break
            lo, hi = max(start, starts[k]) - starts[k], min(stop, starts[k + 1]) - starts[k]
            blocks.append(np.asarray(parts[k][lo:hi]))
        return np.concatenate(blocks).astype(dtype, copy=False)

    return by_rows(path, (starts[-1], *first.shape[1:]), dtype, rows)


def _kind(array: Array) -> str:
    return "i" if array.dtype.kind in "biu" else array.dtype.kind
