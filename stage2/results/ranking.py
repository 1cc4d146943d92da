"""The order of a table: best first, and what rounding cannot tell apart by name.

The same sweep on another number of threads, or on another processor, sums in another order, and
its figures differ in their last digits. A table that followed these digits would change its order
from machine to machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from stage2.engine.metrics import METRICS

T = TypeVar("T")


def tie_of(metric: str) -> float:
    """Up to which difference two figures of a metric count as equal: 0.001 points of what is in
    percent, 0.0001 of what is not. ``selection`` is in percent."""
    return 1e-3 if metric not in METRICS or METRICS[metric].endswith("%") else 1e-4


def in_order(
    items: Iterable[T],
    value: Callable[[T], float | None],
    name: Callable[[T], Any],
    *,
    tie: float = 1e-3,
    ascending: bool = False,
) -> list[T]:
    """Sort items by their values; those within `tie` of their neighbour stand by name.

    Parameters
    ----------
    items
        What is sorted.
    value
        The figure of an item; those with None come last, by name.
    name
        What orders equal items.
    tie
        The largest gap between neighbours that count as equal.
    ascending
        Smallest first; by default largest first.
    """
    items = list(items)
    known = [(own, item) for item in items if (own := value(item)) is not None]
    known.sort(key=lambda pair: pair[0] if ascending else -pair[0])
    ordered: list[T] = []
    equal: list[T] = []
    for place, (own, item) in enumerate(known):
        if place and abs(own - known[place - 1][0]) > tie:
            ordered += sorted(equal, key=name)
            equal = []
        equal.append(item)
    unknown = [item for item in items if value(item) is None]
    return [*ordered, *sorted(equal, key=name), *sorted(unknown, key=name)]
