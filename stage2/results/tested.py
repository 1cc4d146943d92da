"""The rows of a split as results keep them, one by one or summed by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from featbank.bank.schema import EVALUATED
from stage2.results import content

SOURCE_GROUP = "/source_group"
"""End of the name of the source groups of a split beside its labels."""

PART_ROWS = "/rows"
"""End of the name of the rows of each part of a split."""


@dataclass(frozen=True)
class Tested:
    """Rows of a split, or its parts (`stage2.features.parts`).

    Attributes
    ----------
    labels
        Class of each row or part [N] int64.
    groups
        Source group of each [N] int64, 0 … G − 1, where groups are the units.
    rows
        Rows of each part [N] int64; None where each entry is a row.
    """

    labels: np.ndarray
    groups: np.ndarray | None = None
    rows: np.ndarray | None = None

    @property
    def has_units(self) -> bool:
        """Whether the units of a test are known: they are not where parts are classes."""
        return self.rows is None or self.groups is not None

    def rows_of_classes(self, num_classes: int) -> np.ndarray:
        """Rows of each class [K] int64."""
        return np.bincount(self.labels, self.rows, num_classes).astype(np.int64)


def decoded_rows(value: Any, record: Mapping[str, Any]) -> content.Arrays:
    """Decode the labels of val, test and folds, int32 [N], and where rows come from source groups
    these, 0 … G − 1, as ``val/source_group``; `record` is that of the bank."""
    expected = {split for split in record["rows"] if content.measurable(split)}
    groups = {f"{split}{SOURCE_GROUP}" for split in record.get("source_groups", ())}
    parts = record.get("parts", {})
    sums = {f"{split}{PART_ROWS}" for split in parts}
    arrays = content.stored_arrays(
        value, dict.fromkeys((*EVALUATED, *expected, *groups, *sums), "i4")
    )
    if arrays.keys() != expected | groups | sums:
        raise content.Unexpected(
            f"has not just labels of {', '.join(sorted(expected)) or 'no split'}"
        )
    for name, values in arrays.items():
        split = name.split("/")[0]
        content.require_shape(name, values, (parts.get(split, record["rows"][split]),))
        if name in sums:
            if values.min(initial=1) < 1 or values.sum() != record["rows"][split]:
                raise content.Unexpected(f"has {name} that are not the rows of {split}")
            continue
        if name == split:
            content.require_range(name, values, record["num_classes"])
        else:
            content.require_range(name, values, record["source_groups"][split], "source groups")
    return arrays


def splits_of(arrays: content.Arrays) -> content.Arrays:
    """The labels alone, by split."""
    return {name: each for name, each in arrays.items() if "/" not in name}
