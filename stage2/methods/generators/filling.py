"""Filling every class up to the largest: which rows are made, and from which samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stage2.methods.generators.drawing import own_threads
from stage2.methods.generators.interface import Blend, Features, Generation, Made
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Origins:
    """Training rows, and how many new rows are made from each.

    Attributes
    ----------
    y
        Their classes [G]; rows of a class are adjacent.
    row
        The training rows [G].
    count
        New rows of each [G]; P in all, in this order.
    """

    y: Tensor
    row: Tensor
    count: Tensor

    def __getitem__(self, part: slice) -> Origins:
        return Origins(self.y[part], self.row[part], self.count[part])

    def each(self, of: Tensor) -> Tensor:
        """A property `of` the origins [G, …] for every new row, [P, …]."""
        return of.repeat_interleave(self.count, dim=0)

    def by_class(self) -> tuple[Tensor, Tensor]:
        """The classes [G'], and the number of new rows of each [G']."""
        y, origins = self.y.unique_consecutive(return_counts=True)
        ends = self.count.cumsum(0)[origins.cumsum(0) - 1]
        return y, ends.diff(prepend=ends.new_zeros(1))

    def classes(self) -> Iterator[tuple[int, slice]]:
        """The classes, and the slice of the new rows that belongs to each."""
        last = torch.ones_like(self.y, dtype=torch.bool)
        last[:-1] = self.y[1:] != self.y[:-1]
        begin = 0
        for k, end in zip(self.y[last].tolist(), self.count.cumsum(0)[last].tolist(), strict=True):
            yield k, slice(begin, end)
            begin = end


class Filling(Generation):
    """Makes n_max − n_k rows of every class that has samples, anew each time they are drawn.

    The made rows of a class are spread evenly over its samples: row r of epoch t starts from sample
    r + t·(n_max − n_k) modulo their number s_k. Where s_k does not divide n_max − n_k, the samples
    that get one row more change from epoch to epoch.

    Parameters
    ----------
    features
        The training features.
    last
        Classes [K] bool whose rows are made after those of all others; none by default.
    """

    def __init__(self, features: Features, last: Tensor | None = None) -> None:
        self.features = features
        x, classes = features.x, len(features.counts)
        counts = torch.bincount(features.items, minlength=classes)
        self.missing = torch.where(counts > 0, counts.max() - counts, 0)  # n_max − n_k, [K]
        made = torch.arange(classes, device=x.device).repeat_interleave(self.missing)
        self.labels = torch.cat([features.items, made])
        made = self.labels[len(features.items) :]
        self._items = len(features.items)
        place = torch.arange(classes, device=x.device)  # rank of a class in `order`
        if last is not None:
            place += classes * last
        self.order = place[features.labels].argsort(stable=True)  # training rows by class
        self._samples = torch.bincount(features.labels, minlength=classes)
        turn = place.argsort()
        self._begin = torch.empty_like(self._samples)  # first place of a class in `order`
        self._begin[turn] = self._samples[turn].cumsum(0) - self._samples[turn]
        # Made rows r, r + s_k, r + 2·s_k, … of a class start from the same sample in every epoch:
        # they form a group, numbered by the place in `order` of that sample in epoch 0.
        first, samples, begin = (
            of.int() for of in (self.missing.cumsum(0) - self.missing, self._samples, self._begin)
        )
        group = torch.arange(len(made), dtype=torch.int32, device=x.device).sub_(first[made])
        group.remainder_(samples[made]).add_(begin[made])
        self._group = torch.cat([group.new_full((self._items,), -1), group])
        self._spans = list(zip(self._begin.tolist(), self._samples.tolist(), strict=True))
        self._runs = self._first_of_runs()

    def make(self, draws: Tensor, epoch: int, random: torch.Generator) -> Made:
        with own_threads(draws.numel() * self.features.x.shape[1]):
            return self._make(draws.flatten(), epoch, random)

    def _make(self, rows: Tensor, epoch: int, random: torch.Generator) -> Made:
        # Sorted by group, the drawn items come first (group −1), then made rows, origin by origin.
        # Items go to x[:real] and `draw` fills the rest, in which `place` skips spare rows.
        item = rows % len(self.labels)
        group, order = self._group.index_select(0, item).sort(stable=True)
        real = int(torch.searchsorted(group, 0))
        wanted = self._origins(group[real:], epoch)
        origins = self.rounded(wanted)
        made, blended = int(origins.count.sum()), 0
        if self.blended is not None:
            blended = int(origins.count[self.blended[origins.y]].sum())
        x = self.features.x.new_empty(real + made - blended, self.features.x.shape[1])
        own, copy = item[order[:real]], rows[order[:real]] // len(self.labels)
        x[:real] = self.space(self.features.x.index_select(0, copy * self._items + own))
        place = torch.arange(len(rows), device=rows.device)
        spare = origins.count - wanted.count
        place[real:] += wanted.each(spare.cumsum(0) - spare)
        y = self.labels.index_select(0, item)
        blend = self.draw(x[real:], origins, random)
        return Made(x, torch.empty_like(rows).scatter_(0, order, place), y, blend)

    def rounded(self, origins: Origins) -> Origins:
        """The same, with larger counts where that is less work; nothing reads the spare rows."""
        return origins

    def _origins(self, group: Tensor, epoch: int) -> Origins:
        """The origins in an epoch of made rows of the groups [P], which ascend."""
        group, count = group.unique_consecutive(return_counts=True)
        y = self.features.labels[self.order[group]]
        begin, turn = self._begin[y], group + epoch * self.missing[y]
        return Origins(y, self.order[begin + (turn - begin) % self._samples[y]], count)

    @abstractmethod
    def draw(self, x: Tensor, origins: Origins, random: torch.Generator) -> Blend | None:
        """Write the P new rows of `origins` to `x`. If the last T of them, those of the classes
        `blended`, are returned as a `Blend`, `x` is [P − T, D]."""

    def rows(self, k: int) -> Tensor:
        """The training rows of a class, [n]."""
        begin, count = self._spans[k]
        return self.order[begin : begin + count]

    def samples(self, k: int) -> Tensor:
        """The features of a class, [n, D]; a view, not a copy, where its rows are adjacent."""
        first = self._runs[k]
        if first < 0:
            return self.features.x.index_select(0, self.rows(k))
        return self.features.x[first : first + self._spans[k][1]]

    def _first_of_runs(self) -> list[int]:
        """The first training row of each class whose rows are adjacent, −1 for other classes."""
        most, length = len(self.order) - 1, self._samples - 1
        first = self.order[self._begin.clamp(max=most)]
        end = self.order[(self._begin + length).clamp(0, most)]
        return torch.where(end - first == length, first, -1).tolist()
