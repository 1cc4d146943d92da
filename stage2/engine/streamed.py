"""Rows of a split that stay in their file and are read in shuffled blocks, within a budget.

`StreamedRows` keeps the rows of the rarest classes in memory and reads the others into two buffers
in turn; a thread fills one while the engine trains on the other, and another plans the next epoch.
An epoch trains on exactly the draws of its index stream, in another order: the file's blocks are
shuffled, and so are all draws within a window. Draws of rows that stay in memory are spread over
the windows.
"""

from __future__ import annotations

import itertools
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
from stage2.engine.layout import Epoch, Layout, carries_of, window_starts
from stage2.engine.rows import SplitRows, Window
from stage2.engine.staging import Staging, copied, sent
from stage2.methods.draws import ascending, ranges

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
        self.labels = labels.repeat(self.copies)
        self._chunk = min(source.chunk_rows, max(1, self._items))
        self._blocks_per_copy = -(-self._items // self._chunk)
        third = budget // (3 * 4 * self.dim)  # rows
        if third < self._chunk:
            least = 3 * 4 * self.dim * self._chunk
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
        step = max(1, READ_BYTES // (4 * self.dim * self._chunk)) * self._chunk
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
            y = self.labels[sent(drawn.draws, self.device)].view(-1, size)
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
                    yield Window(x, places[batches], y[batches])
                x[carry.place : carry.place + len(rows)] = x[rows]

    def _rarest(self, count: int) -> Tensor:
        """`count` rows, those of the rarest classes first."""
        labels = self.labels.cpu()
        return torch.bincount(labels)[labels].argsort(stable=True)[:count].sort().values

    def _prepared(self, layout: Layout) -> Tensor:
        """The features in memory [n, D], the kept rows already in place."""
        if self._memory is None or len(self._memory) < layout.rows:
            self._memory = torch.empty(layout.rows, self.dim, device=self.device)
            self._await(self._fill(self._memory, self._kept, layout.kept, self._issued()))
        return self._memory

    def _plan(
        self, draws: Tensor, layout: Layout, generator: torch.Generator, turn: int = 0
    ) -> Epoch:
        """Assign draws to windows, and lay out where each finds its row in memory; the first window
        has the buffer of even or odd windows by its `turn`."""
        draws = draws.flatten().cpu()
        spot = torch.full((len(self.labels),), -1)  # of each row: among those loaded, or held
        spot[draws] = 0
        spot[self._kept] = -1 - torch.arange(len(self._kept))
        wanted = (spot == 0).nonzero().flatten()
        blocks = self.copies * self._blocks_per_copy
        block = wanted // self._items * self._blocks_per_copy + wanted % self._items // self._chunk
        size = torch.bincount(block, minlength=blocks)
        order = torch.randperm(blocks, generator=generator).argsort()
        first, size = (size.cumsum(0) - size)[order], size[order]
        wanted = wanted.index_select(0, ranges(first, size))  # in the order of reading
        starts = window_starts(size[size > 0].tolist(), self._buffer_rows)
        bounds = torch.tensor([*starts, len(wanted)])
        loads = [wanted[a:b] for a, b in itertools.pairwise(bounds.tolist())]
        spot[wanted] = torch.arange(len(wanted))
        places = spot.index_select(0, draws)
        del spot, block
        stays = places < 0
        window = torch.bucketize(places, bounds[1:], right=True)
        places -= bounds.index_select(0, window)
        places += torch.tensor(layout.buffers).index_select(0, (window + turn) % 2)
        places[stays] = layout.kept - 1 - (places[stays] - layout.buffers[turn % 2])
        # A draw of a kept row goes to a random window, in proportion to the draws loaded for it.
        share = torch.bincount(window[~stays], minlength=len(starts)).double().cumsum(0)
        share = share / share[-1] if share[-1] else torch.ones_like(share)
        chance = torch.rand(int(stays.sum()), generator=generator, dtype=torch.float64)
        window[stays] = torch.bucketize(chance, share[:-1], right=True)
        ends = torch.bincount(window, minlength=len(starts)).cumsum(0).tolist()
        del stays, chance
        mixed = torch.rand(len(draws), generator=generator, dtype=torch.float64)
        shuffled = ascending(mixed.add_(window))
        del window, mixed
        draws, places = draws.index_select(0, shuffled), places.index_select(0, shuffled)
        return Epoch(draws, places, ends, loads, turn)

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
        self, x: Tensor, rows: Tensor, place: int, after: torch.cuda.Event | None
    ) -> torch.cuda.Event | None:
        """Read `rows`, grouped by block, into x[place], x[place + 1], …

        On a GPU they are copied `after` an event; the event returned stands behind them.
        """
        if after is not None:
            self._staging = self._staging or Staging(
                self.device, self._chunk, self.dim, self._dtype
            )
            self._staging.begin(after)
        copy, item = rows // self._items, rows % self._items
        block = copy * self._blocks_per_copy + item // self._chunk
        _, sizes = block.unique_consecutive(return_counts=True)
        first = 0
        for size in sizes.tolist():
            start = int(item[first]) // self._chunk * self._chunk
            into = x[place + first : place + first + size]
            read = partial(self._read, int(copy[first]), start, item[first : first + size] - start)
            if self._staging is None:
                read(into)
            else:
                self._staging.copy(read, into)
            first += size
        return None if self._staging is None else self._staging.end()

    def _read(self, copy: int, start: int, items: Tensor, into: Tensor) -> None:
        """Read the rows start + `items` [n] of a block into [n, D] of the host."""
        stop = min(start + self._chunk, self._items)
        whole = len(items) == stop - start
        if whole and into.dtype == self._dtype:
            self.source.read(copy, start, stop, into.numpy())
        else:
            read = torch.from_numpy(self.source.read(copy, start, stop))
            into.copy_(read if whole else read.index_select(0, items))


@dataclass(frozen=True)
class _Begun:
    """An epoch that is planned, with the generator that shuffled it, and the load of its first
    window."""

    generator: torch.Generator
    drawn: Epoch
    ready: Future[torch.cuda.Event | None]
