"""Features on their way into a bank: checked, then written in whole chunks."""

from __future__ import annotations

from collections.abc import Callable

import h5py
import numpy as np

from featbank import errors
from featbank.bank.checks import check_finite, check_numbers
from featbank.bank.fingerprint import RowDigest


class FeatureRows:
    """The rows of one view, appended in order: copy 0 rows 0…N−1, then copy 1, …"""

    def __init__(self, dataset: h5py.Dataset, name: str, write: Callable[..., None]) -> None:
        self.name = name
        self._dataset, self._write = dataset, write
        self._digest = RowDigest(dataset.dtype, dataset.shape)
        self._chunk = dataset.chunks[1] if dataset.chunks else 1
        self._pending: list[np.ndarray] = []
        self._received = self._written = 0

    def append(self, block: np.ndarray) -> None:
        """Add rows [n, D]; they must be finite and fit the bank's type."""
        copies, rows, dim = self._dataset.shape
        check_numbers(block, self.name)
        if block.ndim != 2 or block.shape[1] != dim:
            raise errors.DataError(
                f"{self.name}: a block has shape {list(block.shape)}, the bank needs [rows, {dim}]."
            )
        if self._received + len(block) > copies * rows:
            raise errors.DataError(f"{self.name}: more than {copies} × {rows} rows arrived.")
        first = self._received % rows if rows else 0
        check_finite(block, self.name, first_row=first)
        with np.errstate(over="ignore"):
            stored = block.astype(self._dataset.dtype)
        if stored.dtype != block.dtype and not np.isfinite(stored).all():
            row = int(np.flatnonzero(~np.isfinite(stored).all(axis=1))[0])
            remedy = "Store the bank as float32." if stored.dtype == np.float16 else "Scale them."
            raise errors.NotFinite(
                f"{self.name}: row {first + row} has values up to {np.abs(block[row]).max():.3g}, "
                f"which overflow {stored.dtype}. {remedy}"
            )
        self._received += len(block)
        self._pending.append(stored)
        self._write_whole_chunks()

    def finish(self) -> str:
        """Check that every row came; return the digest."""
        copies, rows, _ = self._dataset.shape
        if self._received != copies * rows:
            raise errors.DataError(
                f"{self.name}: {self._received} rows arrived, {copies} × {rows} are needed. "
                "Labels and features must have the same length."
            )
        digest = self._digest.hexdigest()
        self._dataset.attrs["sha256"] = np.bytes_(digest)
        return digest

    def _write_whole_chunks(self) -> None:
        _, rows, _ = self._dataset.shape
        waiting = np.concatenate(self._pending)
        while len(waiting):
            copy, row = divmod(self._written, rows)
            step = min(self._chunk, rows - row)
            if len(waiting) < step:
                break
            self._write(self._dataset, np.s_[copy, row : row + step], waiting[:step])
            self._digest.update(waiting[:step])
            waiting, self._written = waiting[step:], self._written + step
        self._pending = [waiting] if len(waiting) else []
