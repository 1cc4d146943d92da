"""What a setting may be, and the one sentence that tells when it is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """Whether a value is allowed, and the words for what is."""

    allows: Callable[[Any], bool]
    wording: str


def integer(least: int, *, most: int | None = None) -> Rule:
    """An integer from `least` to `most`, ends included."""

    def allows(value: Any) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return value >= least and (most is None or value <= most)

    return Rule(allows, f"an integer ≥ {least}" if most is None else f"an integer {least}…{most}")


def number(wording: str, allows: Callable[[float], bool]) -> Rule:
    """A finite float (or integer) that `allows`; `wording` says which, as in ``"> 0"``."""

    def finite(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and allows(value)

    return Rule(finite, f"a float {wording}")


def broken(rules: Mapping[str, Rule], values: Mapping[str, Any], *, of: str) -> list[str]:
    """One sentence for each of the `values` that breaks its rule; `of` names their owner."""
    problems = []
    for name, value in values.items():
        if name in rules and not rules[name].allows(value):
            told = f"{value:g}" if isinstance(value, float) else repr(value)
            problems.append(f"The {name!r} of {of} must be {rules[name].wording}, got {told}.")
    return problems
