"""Copies from host memory to a GPU beside its computations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from stage2.engine.ahead import ahead


def pinned(values: Tensor) -> Tensor:
    """A copy in pinned memory, whose copies to a GPU the host does not wait for."""
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values)


STREAMS: dict[tuple[torch.device, str], torch.cuda.Stream] = {}
"""Streams beside that of the computations, by device and purpose."""


def side_stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    """The stream of a device for a purpose, the same every time: PyTorch and cuBLAS keep memory for
    each stream that there ever was."""
    key = device, purpose
    if key not in STREAMS:
        STREAMS[key] = torch.cuda.Stream(device)
    return STREAMS[key]


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, without waiting for a GPU."""
    return values if device.type == "cpu" else pinned(values).to(device, non_blocking=True)


def copied(blocks: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Blocks in pinned memory on a GPU, on which they stay as long as they are referenced.

    While the GPU computes on a block, a thread makes the next one and copies it, on a stream of its
    own. The host does not run further ahead: a copy starts when the computations on the block
    before the last are done.
    """
    stream = side_stream(device, "blocks")
    used: deque[torch.cuda.Event] = deque()

    def copies() -> Iterator[tuple[Tensor, torch.cuda.Event]]:
        for block in blocks:
            if used:
                used.popleft().synchronize()
            with torch.cuda.stream(stream):
                x = block.to(device, non_blocking=True)
            yield x, stream.record_event()

    for x, arrived in ahead(copies()):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(arrived)
        x.record_stream(computing)
        yield x
        used.append(computing.record_event())


class Staging:
    """Copies rows through two pinned buffers, on a stream of its own.

    While one buffer is copied the other is filled. Copies start when an event that is given has
    happened, and computations wait for the event that `end` returns; the host waits for neither.

    Parameters
    ----------
    device
        A GPU.
    rows, dim, dtype
        Shape and type of a buffer.
    """

    def __init__(self, device: torch.device, rows: int, dim: int, dtype: torch.dtype) -> None:
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(rows, dim, dtype=dtype, pin_memory=True) for _ in range(2)]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def begin(self, after: torch.cuda.Event) -> None:
        """Start the next copies when an event has happened."""
        self._stream.wait_event(after)

    def copy(self, write: Callable[[Tensor], object], into: Tensor) -> None:
        """Let `write` fill a buffer of the shape of `into` [n, D], and copy it there; of another
        type it is converted on the device."""
        turn, self._turn = self._turn, 1 - self._turn
        if (event := self._copied[turn]) is not None:
            event.synchronize()
        buffer = self._buffers[turn][: len(into)]
        write(buffer)
        with torch.cuda.stream(self._stream):
            same = buffer.dtype == into.dtype  # PyTorch converts on the host, which takes longer
            there = buffer if same else buffer.to(into.device, non_blocking=True)
            into.copy_(there, non_blocking=True)
        self._copied[turn] = self._stream.record_event()

    def end(self) -> torch.cuda.Event:
        """An event behind the copies so far."""
        return self._stream.record_event()
