"""Writing features into a bank: checked, then stored in whole chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import h5py
import numpy as np

from featbank import errors
from featbank.bank.checks import check_finite, check_numbers
from featbank.bank.fingerprint import RowDigest

READ_BACK = 16
"""Chunks read back at a time for the digest."""


class FeatureRows:
    """The rows of one view, appended copy by copy or for all copies at a time.

    The digest covers the rows copy by copy. Rows appended in that order are hashed as they are
    written, the others are read back at the end.

    Parameters
    ----------
    dataset, name
        The features [A, N, D] or [A, N, T, D], and their name in messages.
    write
        Called with the dataset, a place and the rows to write there.
    measured
        Whether to sum up the squares for `norm`.
    """

    def __init__(
        self,
        dataset: h5py.Dataset,
        name: str,
        write: Callable[..., None],
        *,
        measured: bool = False,
    ) -> None:
        self.name, self._measured = name, measured
        self._dataset, self._write = dataset, write
        self._digest, self._digested = RowDigest(dataset.dtype, dataset.shape), 0
        self._chunk = dataset.chunks[1] if dataset.chunks else 1
        copies = dataset.shape[0]
        self._pending: list[list[np.ndarray]] = [[] for _ in range(copies)]
        self._received, self._written = [0] * copies, [0] * copies
        self._squares = [0.0] * copies  # chunk by chunk, so that it depends on the features alone

    def append(self, block: np.ndarray) -> None:
        """Append the next rows [n, D] ([n, T, D] of tokens), or those of every copy [A, n, …].

        They must be finite and fit the bank's type.
        """
        copies, rows, *of_row = self._dataset.shape
        check_numbers(block, self.name)
        every = block.ndim == self._dataset.ndim and len(block) == copies
        if list(block.shape[1 + every :]) != of_row:
            needed = ", ".join(map(str, ("rows", *of_row)))
            raise errors.DataError(
                f"{self.name}: a block has shape {list(block.shape)}, the bank needs [{needed}]."
            )
        received, room = max(self._received), rows
        if not every:
            received, room = sum(self._received), copies * rows
        if received + block.shape[every] > room:
            raise errors.DataError(f"{self.name}: more than {copies} × {rows} rows arrived.")
        for copy, piece in enumerate(block) if every else self._by_copy(block):
            first = self._received[copy]
            stored = as_stored(piece, self._dataset.dtype, self.name, first_row=first)
            self._received[copy] += len(stored)
            self._pending[copy].append(stored)
            self._write_whole_chunks(copy)

    @property
    def norm(self) -> float:
        """Root mean square norm of the rows (of tokens, of each) written, if they are `measured`;
        0 without any."""
        _, _, *tokens, _ = self._dataset.shape
        return math.sqrt(math.fsum(self._squares) / max(1, sum(self._written) * math.prod(tokens)))

    def finish(self) -> str:
        """Check that every row arrived; return the digest."""
        copies, rows = self._dataset.shape[:2]
        if sum(self._received) != copies * rows:
            raise errors.DataError(
                f"{self.name}: {sum(self._received)} rows arrived, {copies} × {rows} are needed. "
                "Labels and features must have the same length."
            )
        while self._digested < copies * rows:
            copy, row = divmod(self._digested, rows)
            block = self._dataset[copy, row : row + READ_BACK * self._chunk]
            self._digest.update(block)
            self._digested += len(block)
        digest = self._digest.hexdigest()
        self._dataset.attrs["sha256"] = np.bytes_(digest)
        return digest

    def _by_copy(self, block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Cut rows [n, …] into pieces that complete one copy after another."""
        rows = self._dataset.shape[1]
        while len(block):
            copy = next(a for a, received in enumerate(self._received) if received < rows)
            piece = block[: rows - self._received[copy]]
            yield copy, piece
            block = block[len(piece) :]

    def _write_whole_chunks(self, copy: int) -> None:
        rows = self._dataset.shape[1]
        waiting = np.concatenate(self._pending[copy])
        while len(waiting):
            row = self._written[copy]
            step = min(self._chunk, rows - row)
            if len(waiting) < step:
                break
            self._write(self._dataset, np.s_[copy, row : row + step], waiting[:step])
            if self._measured:
                self._squares[copy] += sum_of_squares(waiting[:step])
            if self._digested == copy * rows + row:
                self._digest.update(waiting[:step])
                self._digested += step
            waiting, self._written[copy] = waiting[step:], row + step
        self._pending[copy] = [waiting] if len(waiting) else []


def sum_of_squares(block: np.ndarray) -> float:
    """Sum of the squares of all numbers of a block [n, …, D], in float64."""
    rows = block.reshape(-1, block.shape[-1])
    return float(np.einsum("nd,nd->", rows, rows, dtype=np.float64))


def as_stored(block: np.ndarray, dtype: np.dtype, name: str, *, first_row: int = 0) -> np.ndarray:
    """Features [n, …] in the type that a bank stores.

    Raises
    ------
    NotFinite
        For NaN, infinity, or a value that the type cannot hold, with its row counted from
        `first_row`.
    """
    check_finite(block, name, first_row=first_row)
    with np.errstate(over="ignore"):
        stored = block.astype(dtype, copy=False)
    if stored.dtype != block.dtype and not np.isfinite(stored).all():
        row = int(np.flatnonzero(~np.isfinite(stored).reshape(len(stored), -1).all(axis=1))[0])
        remedy = "Store the bank as float32." if stored.dtype == np.float16 else "Scale them."
        raise errors.NotFinite(
            f"{name}: row {first_row + row} has values up to {np.abs(block[row]).max():.3g}, "
            f"which overflow {stored.dtype}. {remedy}"
        )
    return stored
