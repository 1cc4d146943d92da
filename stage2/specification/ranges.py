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

SCALES = ("log", "linear")
KEYS = (*SCALES, "n", "random", "seed")
MOST = 10_000
"""Values of a range."""

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
        How many values.
    seed
        Of random draws; None for values at equal steps.
    """

    scale: str
    low: float
    high: float
    count: int
    seed: int | None = None

    def values(self, name: str) -> list[float]:
        """The values, to six digits; draws depend on the seed and on the `name` of the setting."""
        if self.seed is None:
            steps = np.linspace(0, 1, self.count) if self.count > 1 else np.zeros(1)
        else:
            steps = np.random.default_rng([self.seed, zlib.crc32(name.encode())]).random(self.count)
        if self.scale == "log":
            found = np.exp(np.log(self.low) + steps * (np.log(self.high) - np.log(self.low)))
        else:
            found = self.low + steps * (self.high - self.low)
        return [min(max(float(f"{value:.6g}"), self.low), self.high) for value in found]


def read_range(table: Mapping[str, Any], *, needs_count: bool = True) -> Range:
    """The range that a table of a specification describes.

    Parameters
    ----------
    table
        What stands in the braces.
    needs_count
        Whether it must say how many values it has. Where it need not and does not, it has its two
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
    scales = [key for key in SCALES if key in table]
    if not needs_count and not table.keys() & {"n", "random"}:
        table = {**table, "n": 2}
    counts = [key for key in ("n", "random") if key in table]
    if len(scales) != 1 or len(counts) != 1:
        raise errors.ConfigError(
            f"A range has one of log and linear, and one of n and random. {_NOTATION}."
        )
    (scale,), (counted,) = scales, counts
    ends, count, seed = table[scale], table[counted], table.get("seed", 0)
    if not (isinstance(ends, list) and len(ends) == 2 and all(map(_is_finite, ends))):
        raise errors.ConfigError(f"The ends of a range are two numbers, got {ends!r}. {_NOTATION}.")
    low, high = map(float, ends)
    if low >= high or (scale == "log" and low <= 0):
        wanted = "0 < low < high" if scale == "log" else "low < high"
        raise errors.ConfigError(f"A {scale} range has {wanted}, got {low:g} and {high:g}.")
    if not _is_integer(count) or not 1 <= count <= MOST:
        raise errors.ConfigError(
            f"The {counted!r} of a range must be an integer ≥ 1 and ≤ {MOST}, got {count!r}."
        )
    if not _is_integer(seed) or seed < 0:
        raise errors.ConfigError(f"The 'seed' of a range must be an integer ≥ 0, got {seed!r}.")
    if "seed" in table and counted == "n":
        raise errors.ConfigError("Only a random range has a seed. Remove it, or write random.")
    return Range(scale, low, high, count, seed if counted == "random" else None)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
