"""Work that a thread does ahead of the one that needs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each made by a thread while the caller works on the one before it.

    The first is begun at once. What goes wrong is raised in its item's turn; a caller that stops
    early waits for the item in work.
    """
    pool = ThreadPoolExecutor(1)
    source, end = iter(items), object()
    return _taken(pool, pool.submit(next, source, end), source, end)


def _taken(
    pool: ThreadPoolExecutor, ready: Future, source: Iterator[T], end: object
) -> Iterator[T]:
    with pool:
        while (item := ready.result()) is not end:
            ready = pool.submit(next, source, end)
            yield item
