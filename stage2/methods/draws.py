"""Rows of each epoch, drawn in pieces: memory is that of an epoch, however long the training.

The numbers of a stream are those of a few long calls of a generator: a call for the classes of all
epochs, and then one for all of their rows. A generator of the CPU gives the same numbers in one
call as in many, so they are drawn as they are needed: by a copy of the generator for each call,
moved to where its call begins. What is not drawn in the order in which it is needed (`Numbers`) is
drawn again from states of the generator that were saved on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from stage2.methods.family import Moment
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 1 << 16
"""Draws that are made at once: their intermediate numbers take some 64 bytes each."""

HELD = 1 << 22
"""Draws that `class_cycles` makes ahead, 4 bytes each; at least those of an epoch."""

STATES = 1 << 14
"""States of a generator that `Numbers` saves at most, 5 KB each."""


def spans(total: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each piece of `total` draws."""
    return ((start, min(start + PIECE, total)) for start in range(0, total, PIECE))


def with_replacement(
    weights: Callable[[np.ndarray, Moment], np.ndarray],
    labels: Tensor,
    *,
    epochs: int,
    draws: int,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Classes by their `weights` in the epoch, from class counts [K]; rows uniformly within one."""
    counts, starts, rows = _by_class(labels)
    for epoch in range(epochs):
        share = np.cumsum(weights(counts.double().numpy(), Moment(epoch, epochs)))
        edges = torch.from_numpy(np.append(0, share / share[-1]))  # class k is [edge k, edge k+1)
        upper, width = edges[1:], edges.diff()
        drawn = torch.empty(draws, dtype=torch.int64)
        for start, stop in spans(draws):
            # One number chooses both: the class by where it falls, the row by its place in that.
            at = torch.rand(stop - start, generator=generator, dtype=torch.float64)
            which = torch.searchsorted(upper, at, right=True)
            into = (at - edges.take(which)) / width.take(which)
            size = counts.take(which)
            item = (into * size).long().minimum(size - 1)
            drawn[start:stop] = rows.take(starts.take(which) + item)
        yield drawn


def permutations(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Iterator[Tensor]:
    """A fresh permutation per epoch, followed by another where there are more draws than rows.

    Sorted in place: 8 bytes for each row of the split.
    """
    rounds = -(-draws // len(labels))
    for _ in range(epochs):
        yield shuffled(rounds, len(labels), generator).view(-1)[:draws]


def balanced_draws(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Iterator[Tensor]:
    """Classes uniformly, then rows uniformly within the class, with replacement.

    The numbers of all classes come before those of the rows: a copy of the generator draws classes
    epoch by epoch, after these were drawn and dropped once to find where the others begin.
    """
    counts, starts, rows = _by_class(labels)
    chooser = _copied(generator)
    for start, stop in spans(epochs * draws):
        torch.randint(len(counts), (stop - start,), generator=generator)
    for _ in range(epochs):
        drawn = torch.empty(draws, dtype=torch.int64)
        for start, stop in spans(draws):
            which = torch.randint(len(counts), (stop - start,), generator=chooser)
            size = counts.take(which)
            at = torch.rand(stop - start, generator=generator, dtype=torch.float64) * size
            drawn[start:stop] = rows.take(starts.take(which) + at.long().minimum(size - 1))
        yield drawn


def class_cycles(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Iterator[Tensor]:
    """Visit the classes in cycles; a visit takes the next `per_class` rows of the class's own
    cycle [cRT].

    The order of the classes and of the rows in each is reshuffled whenever a cycle ends. Cycles
    continue across epochs, and each epoch starts with a new visit.

    The numbers that shuffle a class's rows, in all epochs, come before those of the next class. So
    `HELD` draws are made at a time, or those of an epoch, and the numbers in between are drawn
    again for each of these. A class is shuffled at once, with 40 bytes for each of its rows.
    """
    counts, starts, rows = _by_class(labels)
    per_class = settings["per_class"]
    visits = -(-draws // per_class)  # of one epoch
    order = _Laps(len(counts), _copied(generator))
    cycles = _Cycles(
        counts, per_class * _visited(epochs * visits, len(counts), generator), generator
    )
    ahead = max(1, min(epochs, HELD // (visits * per_class)))
    for first in range(0, epochs, ahead):
        some = min(ahead, epochs - first)
        visited = order.take(some * visits)
        own = per_class * torch.bincount(visited, minlength=len(counts))  # draws of each class
        by_class = stable_order(visited)
        held = torch.empty(len(visited), per_class, dtype=rows.dtype)
        done = 0
        for low, high, items in cycles.take(own):
            # The j-th draw of a class takes the j-th place of its cycles laid end to end.
            row = rows.take(items + starts[low:high].repeat_interleave(own[low:high]))
            row = row.view(-1, per_class)
            held[by_class[done : done + len(row)]] = row
            done += len(row)
        for epoch in held.view(some, visits * per_class):
            yield epoch[:draws].long()


class _Cycles:
    """Permutations of 0…n_k−1 laid end to end for each class, and how far each class is in them.

    Parameters
    ----------
    counts
        n_k [C].
    drawn
        Rows of each class in all [C].
    generator
        Is in no one else's use.
    """

    def __init__(self, counts: Tensor, drawn: Tensor, generator: torch.Generator) -> None:
        laps = -(-drawn // counts)
        self._counts = counts
        self._first_lap = laps.cumsum(0) - laps
        self._first_number = (laps * counts).cumsum(0) - laps * counts
        self._numbers = Numbers(int((laps * counts).sum()), generator)
        self._before = torch.zeros_like(counts)

    def take(self, own: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """The next `own` rows of each class [C]: for each of some runs of classes its bounds, and
        places 0…n_k−1 of its rows, class after class."""
        begun = self._before // self._counts  # laps that ended, or are in work
        laps = -(-(self._before + own) // self._counts) - begun
        size = torch.where(own > 0, laps * self._counts, 0)
        for low, high in _runs(size):
            part = slice(low, high)
            items = self._shuffled(begun[part], size[part], part)
            starts = (size.cumsum(0) - size)[part] - size[:low].sum()
            at = starts + (self._before - begun * self._counts)[part]
            yield low, high, items.take(ranges(at, own[part]))
        self._before = self._before + own

    def _shuffled(self, begun: Tensor, size: Tensor, part: slice) -> Tensor:
        """Whole laps of some classes, `size` places of each, `begun` laps left out."""
        counts = self._counts[part]
        within = ranges(torch.zeros_like(size), size)
        owners = counts.repeat_interleave(size)
        lap = within // owners
        item = within - lap * owners
        key = self._numbers.read(self._first_number[part] + begun * counts, size)
        key += lap + (self._first_lap[part] + begun).repeat_interleave(size)
        return item.take(ascending(key))  # laps stay in order, items within one do not


def _runs(sizes: Tensor) -> Iterator[tuple[int, int]]:
    """Runs of consecutive classes with no more than `PIECE` numbers together, or of one class."""
    ends = sizes.cumsum(0)
    low = 0
    while low < len(sizes):
        before = int(ends[low - 1]) if low else 0
        high = int(torch.searchsorted(ends, before + PIECE, right=True))
        high = max(low + 1, high)
        yield low, high
        low = high


def _visited(visits: int, size: int, generator: torch.Generator) -> Tensor:
    """Visits of each of `size` classes [C]; moves the generator behind the laps of `_Laps`."""
    laps, rest = divmod(visits, size)
    for start, stop in spans(laps * size):
        torch.rand(stop - start, generator=generator)
    counts = torch.full((size,), laps)
    if rest:
        counts[shuffled(1, size, generator)[0, :rest]] += 1
    return counts


class _Laps:
    """Permutations of 0…size−1 laid end to end, taken in pieces."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self._size, self._generator = size, generator
        self._left = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> Tensor:
        """The next `count` numbers."""
        missing = max(0, count - len(self._left))
        more = shuffled(-(-missing // self._size), self._size, self._generator).view(-1)
        whole = torch.cat([self._left, more]) if len(self._left) else more
        self._left = whole[count:].clone()
        return whole[:count]


class Numbers:
    """Those of ``torch.rand(total, dtype=torch.float64)``, drawn when they are read.

    On the way states of the generator are saved, so that what was passed can be drawn again.

    Parameters
    ----------
    total
        How many.
    generator
        Is in no one else's use.
    """

    def __init__(self, total: int, generator: torch.Generator) -> None:
        self._total, self._generator = total, generator
        self._block = max(PIECE, -(-total // STATES))
        self._states = [generator.get_state()]
        self._last: tuple[int, Tensor] = (-1, torch.empty(0))

    def read(self, starts: Tensor, sizes: Tensor) -> Tensor:
        """Numbers start … start + size − 1 of ranges in ascending order, one after the other."""
        at = ranges(starts, sizes)
        if not len(at):
            return torch.empty(0, dtype=torch.float64)
        first, last = int(at[0]) // self._block, int(at[-1]) // self._block
        edges = torch.searchsorted(at, self._block * torch.arange(first, last + 2)).tolist()
        parts = [
            self._drawn(number).take(at[low:high] - number * self._block)
            for number, low, high in zip(range(first, last + 1), edges, edges[1:], strict=False)
            if low < high
        ]
        return torch.cat(parts)

    def _drawn(self, number: int) -> Tensor:
        """The numbers of a block."""
        known = len(self._states) - 1
        for each in range(min(number, known), number + 1):
            if each != self._last[0]:
                self._generator.set_state(self._states[each])
                size = min(self._block, self._total - each * self._block)
                drawn = torch.rand(size, generator=self._generator, dtype=torch.float64)
                self._last = each, drawn
                if each + 1 == len(self._states):
                    self._states.append(self._generator.get_state())
        return self._last[1]


def ranges(starts: Tensor, sizes: Tensor) -> Tensor:
    """The numbers start … start + size − 1 of each range, one after the other."""
    return torch.arange(int(sizes.sum())) + (starts - sizes.cumsum(0) + sizes).repeat_interleave(
        sizes
    )


def shuffled(rounds: int, size: int, generator: torch.Generator) -> Tensor:
    """Random permutations of 0…size−1, [rounds, size] int64: the order of random numbers."""
    packed = torch.empty(rounds, size, dtype=torch.int64)
    for some in packed.split(max(1, PIECE // size)):
        for start, stop in spans(size) if len(some) == 1 else ((0, size),):
            keys = torch.rand(len(some), stop - start, generator=generator)
            # Bits of floats from 0 on are in the order of their values.
            some[:, start:stop] = keys.view(torch.int32)
    return _sorted(packed)


def stable_order(keys: Tensor) -> Tensor:
    """Indices [..., n] int64 that sort keys [..., n] from 0 to 2³¹−1, equal ones in their order."""
    return _sorted(keys.to(torch.int64, copy=True))


def _sorted(keys: Tensor) -> Tensor:
    """The same, in place of the keys.

    Key and index are one number each, which NumPy sorts by vector instructions, ten times as fast
    as PyTorch's argsort. That leaves equal keys in an order that depends on the processor.
    """
    keys.bitwise_left_shift_(32)
    for start, stop in spans(keys.shape[-1]):
        keys[..., start:stop] += torch.arange(start, stop)
    keys.numpy().sort()
    return keys.bitwise_and_(2**32 - 1)


def ascending(keys: Tensor) -> Tensor:
    """Indices [n] int64 that sort float64 keys from 0 on [n], equal ones in their order.

    The first bits of a key and its index are one number each, sorted as in `_sorted`; the few keys
    that agree in these bits are sorted once more.
    """
    if not len(keys):
        return torch.empty(0, dtype=torch.int64)
    bits = len(keys).bit_length()
    scale = 2.0 ** (62 - bits - math.frexp(float(keys.max()))[1])  # a power of two: exact
    packed = torch.from_numpy(np.empty(len(keys), np.int64))  # NumPy asks for huge pages
    for start, stop in spans(len(keys)):
        first = torch.mul(keys[start:stop], scale).long().bitwise_left_shift_(bits)
        packed[start:stop] = first.add_(torch.arange(start, stop))
    packed.numpy().sort()
    agree = [
        start + (packed[start:stop] ^ packed[start + 1 : stop + 1] < 1 << bits).nonzero().flatten()
        for start, stop in spans(len(keys) - 1)
    ]
    order = packed.bitwise_and_((1 << bits) - 1)
    if agree and len(at := torch.cat(agree)):
        at = torch.cat([at, at + 1]).unique()
        some = order[at].sort().values
        order[at] = some[keys[some].argsort(stable=True)]
    return order


def _by_class(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Counts and starts of the classes that have rows [C], and the training rows by class [N],
    int32 where their number allows it."""
    counts = torch.bincount(labels)
    counts = counts[counts > 0]
    rows = stable_order(labels)
    return counts, counts.cumsum(0) - counts, rows.int() if len(labels) < 2**31 else rows


def _copied(generator: torch.Generator) -> torch.Generator:
    return torch.Generator().set_state(generator.get_state())
