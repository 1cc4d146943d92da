"""The layout of streamed rows in memory, and of an epoch in windows of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Offsets of the rows in memory: two carries of up to a batch, for even and odd windows; kept
    rows; two buffers."""

    batch: int
    kept_rows: int
    buffer_rows: int

    @property
    def carries(self) -> tuple[int, int]:
        """Starts of the two carries."""
        return 0, self.batch

    @property
    def kept(self) -> int:
        """Start of the kept rows."""
        return 2 * self.batch

    @property
    def buffers(self) -> tuple[int, int]:
        """Starts of the two buffers."""
        first = self.kept + self.kept_rows
        return first, first + self.buffer_rows

    @property
    def rows(self) -> int:
        """Rows in memory."""
        return self.kept + self.kept_rows + 2 * self.buffer_rows


@dataclass(frozen=True)
class Epoch:
    """Draws [n] in the order of training, the place of each in memory, where each window ends, and
    the rows it loads; and whose turn it is in the first window, of two buffers."""

    draws: Tensor
    places: Tensor
    ends: list[int]
    loads: list[Tensor]
    turn: int = 0


@dataclass(frozen=True)
class Carry:
    """The batches of a window, and the rows in memory of those of its draws that fill none, which
    move to `place`, `place` + 1, … for the next window."""

    batches: range
    rows: Tensor
    place: int


def carries_of(drawn: Epoch, layout: Layout) -> list[Carry]:
    """The carry of each window; `drawn.places` become those where draws are trained on."""
    size, carries, first = layout.batch, [], 0
    for number, end in enumerate(drawn.ends):
        last = end // size
        left = slice(last * size, end)
        rows, place = drawn.places[left].clone(), layout.carries[number % 2]
        drawn.places[left] = place + torch.arange(len(rows))
        carries.append(Carry(range(first, last), rows, place))
        first = last
    return carries


def window_starts(sizes: list[int], limit: int) -> list[int]:
    """First row of each window: consecutive blocks of these `sizes`, at most `limit` rows."""
    starts, start, end = [0], 0, 0
    for size in sizes:
        if end + size - start > limit:
            start = end
            starts.append(start)
        end += size
    return starts
