"""The bank format, schema 1: what a bank contains, and under which names.

::

    /                         attributes: format, schema, complete, num_classes, dim, fingerprint
    /provenance               uint8: a JSON document, how the bank was made
    /classes/name        [K]  fixed-length UTF-8 bytes
    /classes/train_count [K]  int64, samples of each class in the train split
    /<split>/label       [N]  int64, 0…K−1
    /<split>/index       [N]  int64, row in the source data
    /<split>/path        [N]  fixed-length UTF-8 bytes (optional)
    /<split>/<view>/feature [A, N, D]   float32 or float16; A augmentation copies, 1 by default
    /classifier/<view>/weight [K, D], bias [K]    float32, the stage-1 classifier (optional)
    /batchnorm/<view>/<layer>/mean, variance      float32, BatchNorm statistics (optional)

``complete`` is 0 until everything else is on disk. Every dataset carries the attribute ``sha256``,
the digest of its content (`featbank.bank.fingerprint`). Numbers are int64 attributes, texts
fixed-length byte attributes: a variable-length attribute lives in a heap without a checksum, where
a flipped bit goes unnoticed.
"""

from __future__ import annotations

import re

FORMAT = "featbank"
SCHEMA = 1
LIBVER = ("v110", "v110")

SPLITS = ("train", "val", "test", "train_balanced")
SPLIT_COLUMNS = ("label", "index", "path")
DTYPES = ("float32", "float16")

CHUNK_BYTES = 1 << 20
"""Aimed size of a feature chunk: reading with checksums is fastest near 1 MiB."""

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.\-]*"
_VIEW = re.compile(rf"{_NAME}(/{_NAME})?")


def is_view_name(name: str) -> bool:
    """Whether `name` can name a view: ``instance``, or two levels such as ``expert0/instance``."""
    return bool(_VIEW.fullmatch(name)) and name.split("/", maxsplit=1)[0] not in SPLIT_COLUMNS


def chunk_rows(rows: int, dim: int, itemsize: int) -> int:
    """Rows of one feature chunk [1, rows, D]: about 1 MiB, at least one row."""
    return max(1, min(rows, CHUNK_BYTES // (dim * itemsize)))
