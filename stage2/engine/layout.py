"""The layout of streamed rows in memory, and of an epoch in windows of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stage2.methods.draws import ascending, spans


@dataclass(frozen=True)
class Blocks:
    """The blocks that a split of `copies` · `items` rows is read in: `chunk` rows of a copy each,
    or what is left of it."""

    copies: int
    items: int
    chunk: int

    @property
    def per_copy(self) -> int:
        """Blocks of a copy."""
        return -(-self.items // self.chunk)

    def edges(self) -> Tensor:
        """First row of each block, and the number of rows [blocks + 1]."""
        starts = torch.arange(0, self.items, self.chunk)
        first = self.items * torch.arange(self.copies)
        return torch.cat([(first[:, None] + starts).flatten(), first[-1:] + self.items])

    def bounds(self, block: int) -> tuple[int, int, int]:
        """Copy, first item and end of a block."""
        copy, place = divmod(block, self.per_copy)
        start = place * self.chunk
        return copy, start, min(start + self.chunk, self.items)


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
class Load:
    """Blocks to read one after the other, how many rows of each are taken, and which: a mask of all
    rows [A·N]."""

    blocks: list[int]
    sizes: list[int]
    taken: Tensor

    @staticmethod
    def of(taken: Tensor, blocks: Blocks) -> Load:
        """The rows taken, in their order."""
        sizes = taken_of_each(taken, blocks.edges())
        some = sizes.nonzero().flatten()
        return Load(some.tolist(), sizes[some].tolist(), taken)


@dataclass(frozen=True)
class Epoch:
    """Draws [n] in the order of training, the place of each in memory, where each window ends, and
    what it loads; and whose turn it is in the first window, of two buffers.

    Draws and places are int32 where their number allows it.
    """

    draws: Tensor
    places: Tensor
    ends: list[int]
    loads: list[Load]
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


def taken_of_each(taken: Tensor, edges: Tensor) -> Tensor:
    """Rows of each block [blocks] in a mask of all rows, for the blocks' `edges` [blocks + 1]."""
    ones = taken.view(torch.uint8).numpy()
    return torch.from_numpy(np.add.reduceat(ones, edges[:-1].numpy(), dtype=np.int64))


def plan_epoch(
    draws: Tensor,
    kept: Tensor,
    layout: Layout,
    blocks: Blocks,
    generator: torch.Generator,
    *,
    turn: int = 0,
) -> Epoch:
    """Assign the draws of an epoch to windows, and find each its place in memory.

    An epoch of as many draws as rows takes 19 bytes a draw at most meanwhile, and 9 in the end:
    numbers in between are made in pieces, and arrays of a row or a draw are of small types.

    Parameters
    ----------
    draws
        Rows [n] int64.
    kept
        Rows that stay in memory, ascending.
    layout, blocks
        The memory, and the file.
    generator
        Shuffles blocks, then assigns draws of kept rows to windows, then shuffles each window.
    turn
        Even where the first window has the first buffer.
    """
    taken = torch.zeros(blocks.copies * blocks.items, dtype=torch.bool)
    taken.index_fill_(0, draws, True).index_fill_(0, kept, False)
    edges = blocks.edges()
    sizes = taken_of_each(taken, edges)
    order = torch.randperm(len(sizes), generator=generator).argsort()
    order = order[sizes[order] > 0]  # blocks in the order of reading
    ends = sizes[order].cumsum(0)
    starts = torch.tensor(window_starts(sizes[order].tolist(), layout.buffer_rows))
    window = torch.bucketize(ends - sizes[order], starts[1:], right=True)
    first = ends - sizes[order] - starts[window] + torch.tensor(layout.buffers)[(window + turn) % 2]
    loads = [
        Load(some.tolist(), sizes[some].tolist(), taken)
        for some in order.split(torch.bincount(window, minlength=len(starts)).tolist())
    ]
    windows, places = torch.zeros_like(sizes), torch.zeros_like(sizes)
    windows[order], places[order] = window, first
    mixed, window_ends = _windows(
        draws, windows, kept, edges, count=len(starts), generator=generator
    )
    shuffled = ascending(mixed)
    del mixed
    small = np.int32 if layout.rows + len(taken) < 2**31 else np.int64
    ordered = torch.from_numpy(draws.numpy().astype(small)).index_select(0, shuffled)
    del shuffled
    spot = _places(taken, edges, sizes, places, small)
    spot[kept] = torch.arange(layout.kept, layout.kept + len(kept), dtype=spot.dtype)
    return Epoch(ordered, spot.index_select(0, ordered), window_ends, loads, turn)


def _windows(
    draws: Tensor,
    windows: Tensor,
    kept: Tensor,
    edges: Tensor,
    *,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, list[int]]:
    """The window of each draw plus a random number below 1 [n] float64, and where windows end.

    `windows` are those of the blocks. A draw of a kept row goes to a random window, in proportion
    to the draws loaded for it.
    """
    small = np.int16 if count < 2**15 else np.int32
    home = torch.from_numpy(np.repeat(windows.numpy().astype(small), edges.diff().numpy()))
    window = home.index_fill_(0, kept, count).index_select(0, draws)
    del home
    share = _counts(window, count + 1)[:count].double().cumsum(0)
    share = share / share[-1] if share[-1] else torch.ones_like(share)
    for a, b in spans(len(draws)):
        stays = (window[a:b] == count).nonzero().flatten()
        chance = torch.rand(len(stays), generator=generator, dtype=torch.float64)
        chosen = torch.bucketize(chance, share[:-1], right=True)
        window[a:b].index_copy_(0, stays, chosen.to(window.dtype))
    mixed = torch.from_numpy(np.empty(len(draws)))  # NumPy asks for huge pages
    for a, b in spans(len(draws)):
        torch.rand(b - a, generator=generator, out=mixed[a:b])
        mixed[a:b] += window[a:b]
    return mixed, _counts(window, count).cumsum(0).tolist()


def _counts(window: Tensor, count: int) -> Tensor:
    """Draws of each window [count]; at once PyTorch would make them all int64."""
    total = torch.zeros(count, dtype=torch.int64)
    for a, b in spans(len(window)):
        total += torch.bincount(window[a:b], minlength=count)
    return total


def _places(
    taken: Tensor, edges: Tensor, sizes: Tensor, places: Tensor, dtype: type[np.signedinteger]
) -> Tensor:
    """The place in memory of each row that is taken [A·N]: that of its block's first one, `places`
    [blocks], and one more for each that is taken before it in the block."""
    spot = taken.numpy().cumsum(dtype=dtype)
    before = (places - (sizes.cumsum(0) - sizes) - 1).numpy().astype(dtype)
    for block, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
        spot[start:stop] += before[block]
    return torch.from_numpy(spot)
