"""Views made of others: what a name such as ``2*layer5/cls|patch:mean`` stands for.

::

    a|b         a and b side by side, each divided by its norm: the root mean square norm of its
                rows of train
    2*a|b       a multiplied by 2 instead
    patch:mean  the mean over the tokens of each row; ``max`` the largest value of each dimension,
                ``gem`` the cube root of the mean of max(x, 1e-6)³ [Radenović et al. 2018 eq. 3]
    patch:tokens  all tokens of a row, one after the other, for heads that take tokens
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from featbank import errors

GEM_POWER, GEM_LEAST = 3.0, 1e-6
"""p and the least value of generalised-mean pooling, as published."""


def _gem(x: np.ndarray) -> np.ndarray:
    raised = np.maximum(x, GEM_LEAST) ** GEM_POWER
    return raised.mean(axis=1) ** (1 / GEM_POWER)


POOLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda x: x.mean(axis=1),
    "max": lambda x: x.max(axis=1),
    "gem": _gem,
}
"""Poolings of tokens [n, T, D] float32 to rows [n, D]."""

TOKENS = "tokens"
"""The pooling that keeps all tokens: [n, T, D] as [n, T·D]."""

_PART = re.compile(r"(?:(?P<factor>[^*]*)\*)?(?P<view>[^*:]+)(?::(?P<pool>.*))?")


@dataclass(frozen=True)
class Part:
    """A part of a composed view.

    Attributes
    ----------
    view
        A view of the bank.
    pool
        One of `POOLS`, `TOKENS`, or None.
    factor
        What its features are multiplied by; None divides them by their norm where there are several
        parts.
    """

    view: str
    pool: str | None = None
    factor: float | None = None

    @property
    def plain(self) -> bool:
        """Whether it is the view as it is stored."""
        return self.pool is None and self.factor is None

    def __str__(self) -> str:
        factor = "" if self.factor is None else f"{self.factor:g}*"
        return f"{factor}{self.view}" + (f":{self.pool}" if self.pool else "")


@lru_cache(4096)
def parts_of(expression: str) -> tuple[Part, ...]:
    """The parts of a view; a single plain one for the name of a stored view.

    Raises
    ------
    ConfigError
        For a text that is no expression.
    """
    return tuple(_part(text, expression) for text in expression.split("|"))


def is_composed(expression: str) -> bool:
    """Whether a view is made of others."""
    parts = parts_of(expression)
    return len(parts) > 1 or not parts[0].plain


def as_tokens(expression: str) -> str:
    """A view whose parts are not pooled, but keep all tokens; a row of features is one token."""
    parts = parts_of(expression)
    kept = (Part(p.view, p.pool or TOKENS, p.factor) for p in parts)
    return "|".join(map(str, kept))


def _part(text: str, expression: str) -> Part:
    match = _PART.fullmatch(text)
    if match is None:
        raise errors.ConfigError(
            f"The view {expression!r} has a part {text!r}. Write parts as view, 2*view or "
            "view:mean, joined by |."
        )
    pool, factor = match["pool"], match["factor"]
    if pool is not None and pool not in (*POOLS, TOKENS):
        raise errors.ConfigError(
            f"The view {expression!r} pools by {pool!r}. {errors.closest(pool, [*POOLS, TOKENS])}"
        )
    return Part(match["view"], pool, None if factor is None else _number(factor, expression))


def _number(text: str, expression: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise errors.ConfigError(
            f"The view {expression!r} has a factor {text!r}. Give a number > 0, as in 2*view."
        )
    return value
