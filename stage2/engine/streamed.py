"""Rows of a split that stay in their file and are read in shuffled blocks, within a budget.

`StreamedRows` keeps the rows of the rarest classes in memory and reads the others into two buffers
in turn; a thread fills one while the engine trains on the other, and another plans the next epoch.
An epoch trains on exactly the draws of its index stream, in another order: the file's blocks are
shuffled, and so are all draws within a window. Draws of rows that stay in memory are spread over
the windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from featbank import errors
from featbank.memory import size_text
from stage2.engine.ahead import ahead
from stage2.engine.layout import Blocks, Epoch, Layout, Load, carries_of, plan_epoch
from stage2.engine.rows import SplitRows, Window
from stage2.engine.staging import Staging, copied, sent

READ_BYTES = 1 << 24
"""Bytes of features per read where a split is read in order."""


class FeatureReader(Protocol):
    """Reads features from a file, such as a view of a bank; `shape` is (A, N, D)."""

    shape: tuple[int, int, int]
    chunk_rows: int
    dtype: str

    def read(self, copy: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows `start` … `stop` − 1 of a copy, [n, D] of `dtype`; into `out` if given."""


class StreamedRows(SplitRows):
    """Features that stay in their file, read block by block within a budget.

    Parameters
    ----------
    source
        The features.
    labels
        [N] int64, on the device where training takes place.
    budget
        Bytes of features in memory: a third for the rows of the rarest classes, and a third for
        each of the two buffers.

    Raises
    ------
    ConfigError
        Where not even one block fits.
    """

    def __init__(self, source: FeatureReader, labels: Tensor, *, budget: int) -> None:
        self.source = source
        self.copies, self._items, self.dim = source.shape
        self._dtype = getattr(torch, source.dtype)
        self.labels = labels if self.copies == 1 else labels.repeat(self.copies)
        chunk = min(source.chunk_rows, max(1, self._items))
        self._blocks = Blocks(self.copies, self._items, chunk)
        self._block_read = torch.empty(chunk, self.dim, dtype=self._dtype)
        third = budget // (3 * 4 * self.dim)  # rows
        if third < chunk:
            least = 3 * 4 * self.dim * chunk
            raise errors.ConfigError(
                f"Streaming needs {size_text(least)} for features, the budget leaves "
                f"{size_text(budget)}. Raise --memory."
            )
        self._buffer_rows = third
        self._kept = self._rarest(min(third, len(self.labels)))
        self._memory: Tensor | None = None
        self._begun: _Begun | None = None
        self._staging: Staging | None = None

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order, `READ_BYTES` at a time; a thread reads the next ones meanwhile."""
        chunk = self._blocks.chunk
        step = max(1, READ_BYTES // (4 * self.dim * chunk)) * chunk
        places = [
            (copy, start, min(start + step, self._items))
            for copy in range(self.copies)
            for start in range(0, self._items, step)
        ]
        read = (self._block(*place) for place in places)
        xs = ahead(read) if self.device.type == "cpu" else copied(read, self.device)
        for (copy, start, stop), x in zip(places, xs, strict=True):
            first = copy * self._items
            yield x.float(), self.labels[first + start : first + stop]

    def _block(self, copy: int, start: int, stop: int) -> Tensor:
        """Rows of a copy on the host [n, D]: float32 on a CPU, of the source's type for a GPU."""
        on_gpu = self.device.type == "cuda"
        x = torch.empty(stop - start, self.dim, dtype=self._dtype, pin_memory=on_gpu)
        self.source.read(copy, start, stop, x.numpy())
        return x if on_gpu else x.float()

    def windows(
        self,
        draws: Tensor,
        generator: torch.Generator,
        epoch: int = 0,
        following: Tensor | None = None,
    ) -> Iterator[Window]:
        """The windows of the epoch, in the order in which shuffled blocks are read."""
        size = draws.shape[1]
        layout = Layout(size, len(self._kept), self._buffer_rows)
        x = self._prepared(layout)
        begun, self._begun = self._begun, None
        with ThreadPoolExecutor(2) as pool:
            if begun is None or begun.generator is not generator:
                drawn = self._plan(draws, layout, generator)
                ready = pool.submit(
                    self._fill, x, drawn.loads[0], layout.buffers[0], self._issued()
                )
            else:
                drawn, ready = begun.drawn, begun.ready
            carries = carries_of(drawn, layout)
            after = drawn.turn + len(carries)
            if following is not None:
                planned = pool.submit(self._plan, following, layout, generator, after)
            moved = sent(torch.cat([carry.rows for carry in carries]), self.device)
            moves = moved.split([len(carry.rows) for carry in carries])
            places = sent(drawn.places, self.device).view(-1, size)
            rows_of = sent(drawn.draws, self.device).view(-1, size)
            for number, (carry, rows) in enumerate(zip(carries, moves, strict=True)):
                self._await(ready.result())
                if number + 1 < len(carries):
                    buffer = layout.buffers[(drawn.turn + number + 1) % 2]
                    load = drawn.loads[number + 1]
                    ready = pool.submit(self._fill, x, load, buffer, self._issued())
                elif following is not None:
                    next_drawn, buffer = planned.result(), layout.buffers[after % 2]
                    load = next_drawn.loads[0]
                    ready = pool.submit(self._fill, x, load, buffer, self._issued())
                    self._begun = _Begun(generator, next_drawn, ready)
                if len(carry.batches):
                    batches = slice(carry.batches.start, carry.batches.stop)
                    y = self.labels.index_select(0, rows_of[batches].flatten())
                    yield Window(x, places[batches].long(), y.view(-1, size))
                x[carry.place : carry.place + len(rows)] = x[rows]

    def _rarest(self, count: int) -> Tensor:
        """`count` rows, those of the rarest classes first, in ascending order."""
        labels = self.labels.cpu()
        sizes = torch.bincount(labels)
        ascending = sizes.sort().values
        last = ascending[torch.searchsorted(ascending.cumsum(0), count)]  # of these only the first
        rows = (sizes < last)[labels].nonzero().flatten()
        more = (sizes == last)[labels].nonzero().flatten()[: count - len(rows)]
        return torch.cat([rows, more]).sort().values

    def _prepared(self, layout: Layout) -> Tensor:
        """The features in memory [n, D], the kept rows already in place."""
        if self._memory is None or len(self._memory) < layout.rows:
            self._memory = _memory(layout.rows, self.dim, self.device)
            taken = torch.zeros(len(self.labels), dtype=torch.bool).index_fill_(0, self._kept, True)
            load = Load.of(taken, self._blocks)
            self._await(self._fill(self._memory, load, layout.kept, self._issued()))
        return self._memory

    def _plan(
        self, draws: Tensor, layout: Layout, generator: torch.Generator, turn: int = 0
    ) -> Epoch:
        """An epoch of draws [steps, B], on the host or the device."""
        draws = draws.flatten().cpu()
        return plan_epoch(draws, self._kept, layout, self._blocks, generator, turn=turn)

    def _issued(self) -> torch.cuda.Event | None:
        """An event behind all computations so far, which may read what is to be overwritten."""
        if self.device.type == "cpu":
            return None
        return torch.cuda.current_stream(self.device).record_event()

    def _await(self, filled: torch.cuda.Event | None) -> None:
        """Let the computations from now on wait for the rows of a `_fill`."""
        if filled is not None:
            torch.cuda.current_stream(self.device).wait_event(filled)

    def _fill(
        self, x: Tensor, load: Load, place: int, after: torch.cuda.Event | None
    ) -> torch.cuda.Event | None:
        """Read the rows of a load into x[place], x[place + 1], …

        On a GPU they are copied `after` an event; the event returned stands behind them.
        """
        if after is not None:
            self._staging = self._staging or Staging(
                self.device, self._blocks.chunk, self.dim, self._dtype
            )
            self._staging.begin(after)
        for block, size in zip(load.blocks, load.sizes, strict=True):
            copy, start, stop = self._blocks.bounds(block)
            first = copy * self._blocks.items
            read = partial(self._read, copy, start, load.taken[first + start : first + stop])
            into = x[place : place + size]
            if self._staging is None:
                read(into)
            else:
                self._staging.copy(read, into)
            place += size
        return None if self._staging is None else self._staging.end()

    def _read(self, copy: int, start: int, taken: Tensor, into: Tensor) -> None:
        """Read the rows of a block that are `taken` [rows of the block] into [n, D] of the host."""
        stop = start + len(taken)
        whole = len(into) == len(taken)
        if whole and into.dtype == self._dtype:
            self.source.read(copy, start, stop, into.numpy())
        else:
            read = self._block_read[: len(taken)]
            self.source.read(copy, start, stop, read.numpy())
            into.copy_(read if whole else read[taken])


def _memory(rows: int, dim: int, device: torch.device) -> Tensor:
    """Room for features [n, D]; on a CPU in huge pages, in which rows are found faster."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty((rows, dim), np.float32))  # NumPy asks for such pages
    return torch.empty(rows, dim, device=device)


@dataclass(frozen=True)
class _Begun:
    """An epoch that is planned, with the generator that shuffled it, and the load of its first
    window."""

    generator: torch.Generator
    drawn: Epoch
    ready: Future[torch.cuda.Event | None]
