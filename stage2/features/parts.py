"""Parts of a split of very many rows: the rows of one class in one source group.

Results of such a split keep the right rows of each part and configuration in place of a bit per
row. Tests, intervals and choices by source group need no more than these sums; what compares single
rows does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featbank.bank import Bank
from featbank.bank.source_groups import source_units

COMPACT_ROWS = 1 << 22
"""Rows up to which a split has a bit per row and configuration: half a MiB each."""

_BITS = 32
"""Bits of the sum of a part."""


@dataclass(frozen=True)
class Parts:
    """The parts of a split of N rows.

    Attributes
    ----------
    part
        The part of each row [N] int32.
    labels, groups, rows
        Class, source group (0 … G − 1) and number of rows of each part [M] int32; no groups where
        the bank has none: a part is a class.
    """

    part: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    rows: np.ndarray


def parts_of(bank: Bank, split: str) -> Parts | None:
    """The parts of a split; None where it has few rows, or its bits take less."""
    if bank.rows(split) <= COMPACT_ROWS:
        return None
    labels, groups = bank.labels(split), source_units(bank.source_groups(split))
    keys = labels if groups is None else groups * bank.num_classes + labels
    kept, part, rows = np.unique(keys, return_inverse=True, return_counts=True)
    if _BITS * len(kept) > len(labels):
        return None
    of, labels = np.divmod(kept, bank.num_classes)
    return Parts(
        part.astype(np.int32),
        labels.astype(np.int32),
        None if groups is None else of.astype(np.int32),
        rows.astype(np.int32),
    )
