"""Reading features chunk by chunk, straight from the file into the caller's array.

The HDF5 library reads one chunk at a time into a buffer, checks it and copies it. Here the
operating system reads a few chunks at once into the caller's array, where their checksums are
computed, by several threads if requested: the same bytes and the same check in less time.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

THREADS = min(2, os.cpu_count() or 1)
"""Threads that read a whole view; more would wait for the interpreter's lock."""

SUM_BYTES = 4
"""Bytes of the checksum that follows a chunk."""

_TOGETHER = 4
"""Chunks read by one call: more exceed the processor's cache, fewer make threads wait for the
interpreter's lock."""

_ROWS, _COLUMNS = 64, 128
_BLOCK = _ROWS * _COLUMNS


class ChunkError(Exception):
    """A chunk that differs from what was written; the message names its rows and the reason."""


class ChunkReader:
    """The chunks of one dataset of features.

    Parameters
    ----------
    descriptor
        File descriptor of the open file.
    size
        Bytes of the file.
    dataset
        [A, N, D] or [A, N, T, D], chunked [1, rows, …], with fletcher32 as the only filter.
    """

    def __init__(self, descriptor: int, size: int, dataset: h5py.Dataset) -> None:
        self._file = descriptor
        self._items, *self._of_row = dataset.shape[1:]
        self._rows = dataset.chunks[1]
        self._dtype = dataset.dtype
        self._bytes = self._rows * math.prod(self._of_row) * self._dtype.itemsize
        self._of_thread = threading.local()
        self._places = np.full((dataset.shape[0], -(-self._items // self._rows)), -1, np.int64)

        def note(chunk: h5py.h5d.StoreInfo) -> None:
            copy, row, *_ = chunk.chunk_offset
            whole = chunk.size == self._bytes + SUM_BYTES and chunk.filter_mask == 0
            if whole and 0 <= chunk.byte_offset <= size - chunk.size:
                self._places[copy, row // self._rows] = chunk.byte_offset

        dataset.id.chunk_iter(note)

    def read(self, copy: int, start: int, stop: int, out: np.ndarray, *, threads: int = 1) -> None:
        """Read the rows `start` … `stop` − 1 of a copy into `out` [n, …], contiguous.

        Raises
        ------
        ChunkError
            If a chunk is missing or its checksum fails.
        """
        runs = list(self._runs(copy, start, stop))
        parts = [runs[i::threads] for i in range(min(threads, len(runs)))]

        def work(part: list[range]) -> None:
            checksum = self._checksum()
            for chunks in part:
                first, last = chunks[0] * self._rows, (chunks[-1] + 1) * self._rows
                if start <= first and last <= stop:
                    self._read_run(copy, chunks, out[first - start : last - start], checksum)
                else:
                    whole = np.empty((last - first, *self._of_row), self._dtype)
                    self._read_run(copy, chunks, whole, checksum)
                    lo, hi = max(first, start), min(last, stop)
                    out[lo - start : hi - start] = whole[lo - first : hi - first]

        if len(parts) == 1:
            work(parts[0])
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                list(pool.map(work, parts))

    def _checksum(self) -> Fletcher32:
        """The checksum of the calling thread, which reuses its memory."""
        if not hasattr(self._of_thread, "checksum"):
            self._of_thread.checksum = Fletcher32(self._bytes, most=_TOGETHER)
        return self._of_thread.checksum

    def _runs(self, copy: int, start: int, stop: int) -> Iterator[range]:
        """Yield runs of chunks that are adjacent in the file; a partly read chunk is by itself."""
        chunk, end = start // self._rows, -(-stop // self._rows)
        while chunk < end:
            run = chunk + 1
            if chunk * self._rows >= start:
                step = self._bytes + SUM_BYTES
                while (
                    run - chunk < _TOGETHER
                    and (run + 1) * self._rows <= stop
                    and self._places[copy, run] == self._places[copy, run - 1] + step
                ):
                    run += 1
            yield range(chunk, run)
            chunk = run

    def _read_run(self, copy: int, chunks: range, rows: np.ndarray, checksum: Fletcher32) -> None:
        """Read adjacent chunks into `rows` [n, …]."""
        stored = np.empty(len(chunks), "<u4")
        pieces = rows.reshape(len(chunks), -1)
        buffers = [b for pair in zip(pieces, stored[:, None], strict=True) for b in pair]
        place = int(self._places[copy, chunks[0]])
        count = os.preadv(self._file, [b.data for b in buffers], place) if place >= 0 else 0
        sound = same_sums(checksum(pieces), stored)
        if count != len(chunks) * (self._bytes + SUM_BYTES) or not sound.all():
            first = chunks[int(sound.argmin())] * self._rows
            last = min(first + self._rows, self._items) - 1
            raise ChunkError(f"rows {first}…{last} of copy {copy}: the checksum fails")


class Fletcher32:
    """The checksum of HDF5's fletcher32 filter, for chunks of `size` bytes (an even number).

    With w_i the n words of 16 bits, big-endian: s₁ = Σ w_i and s₂ = Σ (n − i)·w_i, i from 0, both
    modulo 65535; the checksum is 65536·s₂ + s₁. Swapping the bytes of a word multiplies it by 256
    modulo 65535, so words are summed in the byte order of memory. They are arranged in blocks of
    64 × 128 float32, whose row and column sums, computed as matrix products, stay below 2²⁴ and so
    are exact.

    Parameters
    ----------
    size
        Bytes of a chunk.
    most
        The most chunks of one call.
    """

    def __init__(self, size: int, *, most: int = 1) -> None:
        self._n = size // 2
        blocks = -(-self._n // _BLOCK)
        self._words = np.zeros((most, blocks * _BLOCK), np.float32)
        self._ones = np.ones(_COLUMNS, np.float32)
        self._row_weights = _COLUMNS * np.arange(blocks * _ROWS) % 65535
        self._column_weights = np.tile(np.arange(_COLUMNS), blocks)

    def __call__(self, chunks: np.ndarray) -> np.ndarray:
        """Checksums [c] of contiguous chunks [c, …]."""
        count = len(chunks)
        self._words[:count, : self._n] = chunks.reshape(count, -1).view(np.uint16)
        words = self._words[:count].reshape(-1, _ROWS, _COLUMNS)
        rows = (words @ self._ones).reshape(count, -1).astype(np.int64)
        columns = (self._ones[:_ROWS] @ words).reshape(count, -1).astype(np.int64)
        total = rows.sum(1) % 65535
        weighted = rows @ self._row_weights + columns @ self._column_weights
        second = 256 * ((self._n * total - weighted) % 65535) % 65535
        return second << 16 | 256 * total % 65535


def same_sums(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mask [c] of equal checksums; each half counts modulo 65535, so 0 equals 65535."""
    return np.logical_and(
        (one >> 16) % 65535 == (other >> 16) % 65535,
        (one & 0xFFFF) % 65535 == (other & 0xFFFF) % 65535,
    )
