"""Streams and events of the simulated GPU.

Copies that do not block are carried out late: when somebody waits for an event recorded behind
them. Whoever reads before that, or overwrites what is still to be copied, gets wrong numbers.
Kernels run at once. The current device is another one, so that a stream or an event that names no
device is not that of the simulated tensors.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Stream:
    """A stream of the simulated device, with its copies that have not been carried out."""

    def __init__(self, device: Any = None) -> None:
        self._waiting: list[Callable[[], object]] = []
        self._lock = threading.RLock()
        self.issued = self._done = 0

    @property
    def aside(self) -> bool:
        """Whether it is not the stream of the kernels."""
        return self not in (_DEFAULT, _STRAY)

    def issue(self, work: Callable[[], object]) -> None:
        """Take on a copy."""
        with self._lock:
            self._waiting.append(work)
            self.issued += 1

    def finish(self, until: int) -> None:
        """Carry out the copies up to a number."""
        with self._lock:
            while self._done < until:
                self._done += 1
                self._waiting.pop(0)()

    def record_event(self, event: Event | None = None) -> Event:
        """An event behind the copies so far."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Put the copies that are issued from now on behind an event."""
        if self.aside:
            self.issue(event.synchronize)
        else:
            event.synchronize()  # kernels run at once

    def wait_stream(self, other: Stream) -> None:
        """Put what is issued from now on behind all that another stream has."""
        self.wait_event(other.record_event())

    def synchronize(self) -> None:
        """Wait for all copies."""
        self.finish(self.issued)


class Event:
    """An event of the simulated device."""

    def __init__(self, **options: bool) -> None:
        self._stream, self._behind = _STRAY, 0

    def record(self, stream: Stream | None = None) -> None:
        """Stand behind the copies so far of a stream."""
        self._stream = stream or _STRAY
        self._behind = self._stream.issued

    def synchronize(self) -> None:
        """Wait for these copies."""
        self._stream.finish(self._behind)


_DEFAULT, _STRAY = Stream(), Stream()
_CURRENT = threading.local()


def current_stream(device: Any = None) -> Stream:
    """The stream of this thread; of another device where none is given."""
    if device is None or torch.device(device).type != "cuda":
        return _STRAY
    return getattr(_CURRENT, "stream", _DEFAULT)


@contextlib.contextmanager
def stream(entered: Stream) -> Iterator[None]:
    """Make a stream that of this thread."""
    before = getattr(_CURRENT, "stream", _DEFAULT)
    _CURRENT.stream = entered
    try:
        yield
    finally:
        _CURRENT.stream = before
