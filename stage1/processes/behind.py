"""Work on a second thread, behind the one that computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

WAITING = 2
"""Calls that may be queued or running before the next has to wait."""


class Behind:
    """Calls made one after another on one thread, in order.

    Use as a context manager: leaving it waits for all calls. After a failed call no other is made;
    the next `call`, or leaving, raises its error.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._open: deque[Future[None]] = deque()
        self._failed = False

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Queue a call of `function`; wait while `WAITING` calls are ahead of it."""
        while self._open and (len(self._open) >= WAITING or self._open[0].done()):
            self._open.popleft().result()
        self._open.append(self._pool.submit(self._run, function, arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown()
        if kind is None:
            for call in self._open:
                call.result()

    def _run(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._failed:
            return
        try:
            function(*arguments)
        except BaseException:
            self._failed = True
            raise
