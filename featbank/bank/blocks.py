"""Blocks of whole rows that a dataset is read in, and progress from block to block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from featbank.bank.schema import FEATURE_AXES

BLOCK_BYTES = 1 << 24
"""Size of the blocks that features are read in: whole chunks, in bounded memory."""

Place = tuple[Any, ...]
"""A block of a dataset: a slice of rows, after the copy or prompt if the dataset holds features."""

Progress = Callable[[int, int], None]
"""Called with (MiB done, MiB in all) until all is done."""


def report(progress: Progress | None, done: int, total: int) -> None:
    """Report `done` of `total` bytes, unless that is all of them."""
    if progress and done >> 20 < total >> 20:
        progress(done >> 20, total >> 20)


def block_rows(dataset: h5py.Dataset) -> int:
    """Rows of a block: whole chunks of about `BLOCK_BYTES`."""
    lead = _lead(dataset)
    row_bytes = max(1, math.prod(dataset.shape[lead:]) * dataset.dtype.itemsize)
    chunk = chunk_rows(dataset)
    return max(1, BLOCK_BYTES // (chunk * row_bytes)) * chunk


def chunk_rows(dataset: h5py.Dataset) -> int:
    """Rows of a chunk."""
    return dataset.chunks[_lead(dataset) - 1] if dataset.chunks else 1


def _lead(dataset: h5py.Dataset) -> int:
    """Axes before those of a row: rows, after copies or prompts in features."""
    return 2 if dataset.ndim in FEATURE_AXES else 1


def places(dataset: h5py.Dataset) -> Iterator[Place]:
    """Yield the blocks of a dataset in order."""
    *copies, rows = dataset.shape[: _lead(dataset)]
    for copy in np.ndindex(*copies):
        for block in steps(0, rows, block_rows(dataset)):
            yield (*copy, block)


def chunk_places(dataset: h5py.Dataset, place: Place) -> Iterator[Place]:
    """Yield the chunks of a block: the smallest unit that can be read."""
    *copy, rows = place
    for chunk in steps(rows.start, rows.stop, chunk_rows(dataset)):
        yield (*copy, chunk)


def steps(start: int, stop: int, step: int) -> Iterator[slice]:
    """Cut the rows `start` … `stop` − 1 into slices of `step` rows."""
    return (slice(i, min(i + step, stop)) for i in range(start, stop, step))
