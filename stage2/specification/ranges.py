"""Ranges of a setting's values, as a specification writes them.

``{log = [1e-3, 1], n = 8}`` are 8 values at equal ratios, ``{linear = [0, 1], n = 5}`` five at
equal distances; ``random = 20`` in place of ``n`` are 20 draws, log-uniform or uniform, and
``seed = 1`` draws others.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from featbank import errors
from featbank.settings import Setting

SCALES = ("log", "linear")
MOST = 10_000
"""Values of a range."""

COUNTS = {
    "n": Setting("n", None, "values at equal steps", low=1, high=MOST, kind=int),
    "random": Setting("random", None, "random values", low=1, high=MOST, kind=int),
}
SEED = Setting("seed", 0, "of random values", low=0, high=2**63 - 1)
KEYS = (*SCALES, *COUNTS, SEED.name)

_NOTATION = "Write {log = [1e-3, 1], n = 8} or {log = [1e-3, 1], random = 20, seed = 0}"


@dataclass(frozen=True)
class Range:
    """Values between `low` and `high`, both included.

    Attributes
    ----------
    scale
        ``log`` or ``linear``.
    low, high
        The ends.
    count
        Number of values.
    seed
        Of random draws; None for values at equal steps.
    """

    scale: str
    low: float
    high: float
    count: int
    seed: int | None = None

    def values(self, name: str) -> list[float]:
        """The values; draws depend on the seed and on the `name` of the setting."""
        if self.seed is None:
            steps = np.linspace(0, 1, self.count) if self.count > 1 else np.zeros(1)
        else:
            steps = np.random.default_rng([self.seed, zlib.crc32(name.encode())]).random(self.count)
        if self.scale == "log":
            values = np.exp(np.log(self.low) + steps * (np.log(self.high) - np.log(self.low)))
        else:
            values = self.low + steps * (self.high - self.low)
        return list(map(self.rounded, values))

    def rounded(self, value: float) -> float:
        """A value to six digits, within the range."""
        return min(max(float(f"{value:.6g}"), self.low), self.high)


def read_range(table: Mapping[str, Any], *, needs_count: bool = True) -> Range:
    """Read the range that a table of a specification describes.

    Parameters
    ----------
    table
        What stands in the braces.
    needs_count
        Whether it must say how many values it has; a range that need not and does not has its two
        ends.

    Raises
    ------
    ConfigError
        For anything but one of the notations above.
    """
    for key in table:
        if key not in KEYS:
            raise errors.ConfigError(
                f"A range has no {key!r}.{errors.did_you_mean(key, KEYS)} {_NOTATION}."
            )
    if not needs_count and not table.keys() & COUNTS.keys():
        table = {**table, "n": 2}
    scales, counts = ([key for key in keys if key in table] for keys in (SCALES, COUNTS))
    if len(scales) != 1 or len(counts) != 1:
        raise errors.ConfigError(
            f"A range has one of log and linear, and one of n and random. {_NOTATION}."
        )
    (scale,), (counted,) = scales, counts
    ends = table[scale]
    if not (isinstance(ends, list) and len(ends) == 2 and all(map(_is_finite, ends))):
        raise errors.ConfigError(f"The ends of a range are two numbers, got {ends!r}. {_NOTATION}.")
    low, high = map(float, ends)
    if low >= high or (scale == "log" and low <= 0):
        wanted = "0 < low < high" if scale == "log" else "low < high"
        raise errors.ConfigError(f"A {scale} range has {wanted}, got {low:g} and {high:g}.")
    count = COUNTS[counted].check(table[counted], "a range")
    seed = SEED.check(table.get("seed", SEED.default), "a range")
    if "seed" in table and counted == "n":
        raise errors.ConfigError("Only a random range has a seed. Remove it, or write random.")
    return Range(scale, low, high, count, seed if counted == "random" else None)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
