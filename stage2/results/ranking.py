"""The order of a table: best first; values that rounding cannot tell apart stand by name.

The same sweep with another number of threads, or on another processor, sums in another order, and
its figures differ in their last digits. A table sorted by these digits would change its order from
machine to machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from stage2.engine.metrics import METRICS, RANKING

T = TypeVar("T")


def in_order(
    items: Iterable[T],
    value: Callable[[T], float | None],
    name: Callable[[T], Any],
    *,
    tie: float = METRICS[RANKING].tie,
    ascending: bool = False,
) -> list[T]:
    """Sort items by their values; those within `tie` of the best among them stand by name.

    Parameters
    ----------
    items
        Any.
    value
        The figure of an item; those with None come last, by name.
    name
        The key that orders equal items.
    tie
        Values that differ from the best of them by at most this count as equal to it.
    ascending
        Smallest first; by default largest first.
    """
    items = list(items)
    known = [(figure, item) for item in items if (figure := value(item)) is not None]
    known.sort(key=lambda pair: pair[0] if ascending else -pair[0])
    ordered: list[T] = []
    equal: list[T] = []
    best = known[0][0] if known else 0.0
    for figure, item in known:
        if abs(figure - best) > tie:
            ordered += sorted(equal, key=name)
            equal, best = [], figure
        equal.append(item)
    unknown = [item for item in items if value(item) is None]
    return [*ordered, *sorted(equal, key=name), *sorted(unknown, key=name)]
