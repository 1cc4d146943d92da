"""The digest of a row of a results file: 64 bytes, two SHA-256.

The second covers the row's key and its long columns (`stage2.results.schema.HEAVY`), the first the
table's name, the other columns (`LIGHT`), the second half, and for a run the digests of its
evaluations in the order of split and epoch. So leaderboards check rows without reading their long
columns, and changed values, moved keys, and missing or replaced evaluations are detected.

The table's name and the columns of a key or of `LIGHT` are joined by U+001F, which none of them
contains, as UTF-8: texts as they are, integers in decimal, floats in the fewest decimals that read
back as the same, NULL as nothing. A long column is its length in bytes, a colon and the bytes; NULL
is a hyphen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

Value = str | bytes | int | float | None
"""A value in SQLite."""

HALF = 32
"""Bytes of half a digest."""


def light_digest(
    table: str, light: Sequence[Value], heavy: bytes, evaluations: Sequence[Any] = ()
) -> bytes:
    """First half of a row's digest, given the second."""
    return hashlib.sha256(b"".join((_joined(table, light), heavy, *evaluations))).digest()


def heavy_digest(table: str, key: Sequence[Value], heavy: Sequence[Value]) -> bytes:
    """Second half of a row's digest."""
    return hashlib.sha256(b"".join((_joined(table, key), *map(_measured, heavy)))).digest()


def _joined(table: str, values: Sequence[Value]) -> bytes:
    try:
        text = "\x1f".join((table, *values))  # type: ignore[arg-type]  # texts, but for a run's
    except TypeError:
        text = "\x1f".join((table, *("" if value is None else str(value) for value in values)))
    return text.encode("utf-8", "surrogateescape")


def _measured(value: Value) -> bytes:
    if value is None:
        return b"-"
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return b"%d:%b" % (len(data), data)


def same_light(
    table: str, light: Sequence[Value], digest: Any, evaluations: Sequence[Any] = ()
) -> bool:
    """Whether a row is as the first half of its digest says; one without has evaluations
    without."""
    if digest is None:
        return not any(evaluations)
    if not _is_digest(digest) or (evaluations and not all(map(_is_digest, evaluations))):
        return False
    parts = _joined(table, light), digest[HALF:], *evaluations
    return digest[:HALF] == hashlib.sha256(b"".join(parts)).digest()


def same_heavy(table: str, key: Sequence[Value], heavy: Sequence[Value], digest: Any) -> bool:
    """Whether a row's long columns are as the second half of its digest says, where it has one."""
    return digest is None or (
        _is_digest(digest) and digest[HALF:] == heavy_digest(table, key, heavy)
    )


def _is_digest(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 2 * HALF
