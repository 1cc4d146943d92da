"""Digests of content, by which two banks are the same bank.

Every dataset has a SHA-256 over its type, shape and bytes. The fingerprint of a bank is the SHA-256
over the sorted (name, digest) pairs of all datasets except the provenance, so that equal content
has an equal fingerprint, whoever wrote it and when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np


def array_digest(array: np.ndarray) -> str:
    """SHA-256, in hex, over the type, shape and bytes of `array`."""
    rows = RowDigest(array.dtype, array.shape)
    rows.update(array)
    return rows.hexdigest()


class RowDigest:
    """The digest of an array that arrives in blocks of rows, in order."""

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        kind = np.dtype(dtype).newbyteorder("<").str
        self._hash = hashlib.sha256(f"{kind}{list(shape)}".encode())

    def update(self, block: np.ndarray) -> None:
        """Add the next rows."""
        little = block.astype(block.dtype.newbyteorder("<"), copy=False)
        self._hash.update(np.ascontiguousarray(little).data.cast("B") if little.size else b"")

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._hash.hexdigest()


def fingerprint(digests: Mapping[str, str]) -> str:
    """Fingerprint of a bank, 64 hex digits, from the digests of its datasets by name."""
    lines = "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
