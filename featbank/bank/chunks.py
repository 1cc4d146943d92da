"""Reading features chunk by chunk, straight from the file into their place.

The HDF5 library reads a chunk into a buffer, checks it and copies it out, one chunk at a time. Here
the operating system reads into the caller's array, and the checksum is taken there, by several
threads: same bytes, same check, several times the speed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

THREADS = min(4, os.cpu_count() or 1)
SUM_BYTES = 4

_ROWS, _COLUMNS = 64, 128
_BLOCK = _ROWS * _COLUMNS


class ChunkError(Exception):
    """A chunk that is not what was written; the message says which rows and why."""


class ChunkReader:
    """The chunks of one dataset of features.

    Parameters
    ----------
    descriptor
        Of the open file.
    size
        Bytes of the file.
    dataset
        [A, N, D], chunked [1, rows, D], with fletcher32 as the only filter, every chunk there.
    """

    def __init__(self, descriptor: int, size: int, dataset: h5py.Dataset) -> None:
        self._file = descriptor
        self._items, self._dim = dataset.shape[1:]
        self._rows = dataset.chunks[1]
        self._dtype = dataset.dtype
        self._bytes = self._rows * self._dim * self._dtype.itemsize
        self._places = np.full((dataset.shape[0], -(-self._items // self._rows)), -1, np.int64)

        def note(chunk: h5py.h5d.StoreInfo) -> None:
            copy, row, _ = chunk.chunk_offset
            whole = chunk.size == self._bytes + SUM_BYTES and chunk.filter_mask == 0
            if whole and 0 <= chunk.byte_offset <= size - chunk.size:
                self._places[copy, row // self._rows] = chunk.byte_offset

        dataset.id.chunk_iter(note)

    def read(self, copy: int, start: int, stop: int, out: np.ndarray, *, threads: int) -> None:
        """Read the rows `start` … `stop` − 1 of a copy into `out` [n, D], contiguous.

        Raises
        ------
        ChunkError
            Where a chunk is not there or its checksum fails.
        """
        chunks = range(start // self._rows, -(-stop // self._rows))
        parts = [chunks[i::threads] for i in range(min(threads, len(chunks)))]

        def run(part: range) -> None:
            scratch = np.empty((self._rows, self._dim), self._dtype)
            checked = Fletcher32(self._bytes)
            for chunk in part:
                first = chunk * self._rows
                begin, end = first - start, first - start + self._rows
                inside = begin >= 0 and end <= len(out)
                self._read_chunk(copy, chunk, out[begin:end] if inside else scratch, checked)
                if not inside:
                    lo, hi = max(begin, 0), min(end, len(out))
                    out[lo:hi] = scratch[lo - begin : hi - begin]

        if len(parts) == 1:
            run(parts[0])
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                list(pool.map(run, parts))

    def _read_chunk(
        self, copy: int, chunk: int, block: np.ndarray, checksum: Callable[[np.ndarray], int]
    ) -> None:
        """Read a whole chunk into `block` [rows, D]."""
        stored = np.empty(1, "<u4")
        place = int(self._places[copy, chunk])
        got = os.preadv(self._file, [block.data, stored.data], place) if place >= 0 else 0
        if got != self._bytes + SUM_BYTES or not same_sum(checksum(block), int(stored[0])):
            first = chunk * self._rows
            last = min(first + self._rows, self._items) - 1
            raise ChunkError(f"rows {first}…{last} of copy {copy}: the checksum fails")


class Fletcher32:
    """The checksum of HDF5's fletcher32 filter, for arrays of `size` bytes (an even number).

    With w_i the n words of 16 bits, big-endian: s₁ = Σ w_i and s₂ = Σ (n − i)·w_i, i from 0, both
    modulo 65535; the checksum is 65536·s₂ + s₁. Swapping the bytes of a word multiplies it by 256
    modulo 65535, so words are summed as they lie in memory. They are laid out in blocks of 64 × 128
    float32, whose row and column sums, matrix products, stay below 2²⁴ and so are exact.
    """

    def __init__(self, size: int) -> None:
        self._n = size // 2
        blocks = -(-self._n // _BLOCK)
        self._words = np.zeros(blocks * _BLOCK, np.float32)
        self._shape = (blocks, _ROWS, _COLUMNS)
        self._blocks = _BLOCK * np.arange(blocks)
        self._ones = np.ones(_COLUMNS, np.float32)

    def __call__(self, array: np.ndarray) -> int:
        """Checksum of a contiguous array."""
        self._words[: self._n] = array.reshape(-1).view(np.uint16)
        words = self._words.reshape(self._shape)
        rows = (words @ self._ones).astype(np.int64)  # [blocks, 64]
        columns = (self._ones[:_ROWS] @ words).astype(np.int64)  # [blocks, 128]
        by_block = rows.sum(1)
        total = int(by_block.sum())
        weighted = int(
            self._blocks @ by_block
            + _COLUMNS * (rows.sum(0) @ np.arange(_ROWS))
            + columns.sum(0) @ np.arange(_COLUMNS)
        )
        first, second = 256 * total % 65535, 256 * (self._n * total - weighted) % 65535
        return second << 16 | first


def same_sum(one: int, other: int) -> bool:
    """Whether two checksums agree; each half is a number modulo 65535, where 0 is 65535."""
    return all((one >> s & 0xFFFF) % 65535 == (other >> s & 0xFFFF) % 65535 for s in (0, 16))
