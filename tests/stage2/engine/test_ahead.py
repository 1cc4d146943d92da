"""Work that a thread does ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from stage2.engine.ahead import ahead


def test_the_next_item_is_made_while_one_is_in_use() -> None:
    """Reference: the order of events; item 1 is made although nobody has asked for it."""
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    taken = ahead(items())
    assert made[0].wait(60), "the first is begun at once"
    assert next(taken) == 0
    assert made[1].wait(60)
    assert not made[2].is_set(), "no more than one is made ahead"
    assert list(taken) == [1, 2]


def test_errors_come_in_their_turn_and_threads_end() -> None:
    """Reference: the items before the error; no thread is left."""
    before = threading.active_count()

    def failing() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    taken = ahead(failing())
    assert next(taken) == 1
    with pytest.raises(OSError, match="gone"):
        next(taken)
    stopped = ahead(iter(range(9)))
    assert next(stopped) == 0
    stopped.close()
    assert threading.active_count() == before
