"""Copies from host memory to a GPU beside its computations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pinned(values: Tensor) -> Tensor:
    """A copy in pinned memory, whose copies to a GPU the host does not wait for."""
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values)


class Staging:
    """Copies rows through two pinned buffers, on a stream of its own.

    While one buffer is copied the other is filled. Copies start when an event that is given has
    happened, and computations wait for the event that `end` returns; the host waits for neither.

    Parameters
    ----------
    device
        A GPU.
    rows, dim
        Shape of a buffer, float32.
    """

    def __init__(self, device: torch.device, rows: int, dim: int) -> None:
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(rows, dim, pin_memory=True) for _ in range(2)]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def begin(self, after: torch.cuda.Event) -> None:
        """Start the next copies when an event has happened."""
        self._stream.wait_event(after)

    def copy(self, write: Callable[[Tensor], object], into: Tensor) -> None:
        """Let `write` fill a buffer of the shape of `into` [n, D], and copy it there."""
        turn, self._turn = self._turn, 1 - self._turn
        if (event := self._copied[turn]) is not None:
            event.synchronize()
        buffer = self._buffers[turn][: len(into)]
        write(buffer)
        with torch.cuda.stream(self._stream):
            into.copy_(buffer, non_blocking=True)
        self._copied[turn] = self._stream.record_event()

    def end(self) -> torch.cuda.Event:
        """An event behind the copies so far."""
        return self._stream.record_event()
