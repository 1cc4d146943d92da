"""Filling every class up to the largest: which rows are made, and from which sample each is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stage2.methods.generators.drawing import threads_of_ours
from stage2.methods.generators.interface import Blend, Features, Generation, Made


@dataclass(frozen=True)
class Sources:
    """The training rows that new rows are made from, one after the other.

    Attributes
    ----------
    y
        Their classes [G], equal ones side by side.
    row
        The training rows [G].
    count
        New rows of each [G].
    """

    y: Tensor
    row: Tensor
    count: Tensor

    def __getitem__(self, part: slice) -> Sources:
        return Sources(self.y[part], self.row[part], self.count[part])

    def each(self, of: Tensor) -> Tensor:
        """What every new row has of its source, [P, …], from `of` [G, …]."""
        return of.repeat_interleave(self.count, dim=0)

    def classes(self) -> Iterator[tuple[int, slice]]:
        """The classes, and where the new rows of each are."""
        last = torch.ones_like(self.y, dtype=torch.bool)
        last[:-1] = self.y[1:] != self.y[:-1]
        begin = 0
        for k, end in zip(self.y[last].tolist(), self.count.cumsum(0)[last].tolist(), strict=True):
            yield k, slice(begin, end)
            begin = end


class Filling(Generation):
    """n_max − n_k rows of every class that has samples, made anew each time they are drawn.

    Rows of a class are spread evenly over its samples: made row r of epoch t comes from the sample
    r + t·(n_max − n_k) modulo their number, so that what does not divide goes round as well.

    Parameters
    ----------
    features
        The training features.
    last
        Classes [K] bool whose rows are made after those of others; none by default.
    """

    def __init__(self, features: Features, last: Tensor | None = None) -> None:
        self.features = features
        x, classes = features.x, len(features.counts)
        counts = torch.bincount(features.items, minlength=classes)
        self.missing = torch.where(counts > 0, counts.max() - counts, 0)  # rows to make, [K]
        made = torch.arange(classes, device=x.device).repeat_interleave(self.missing)
        self.labels = torch.cat([features.items, made])
        made = self.labels[len(features.items) :]
        self._items = len(features.items)
        place = torch.arange(classes, device=x.device)  # of a class among all
        if last is not None:
            place += classes * last
        self.order = place[features.labels].argsort(stable=True)  # training rows by class
        self._samples = torch.bincount(features.labels, minlength=classes)
        turn = place.argsort()
        self._begin = torch.empty_like(self._samples)  # of a class in `order`
        self._begin[turn] = self._samples[turn].cumsum(0) - self._samples[turn]
        # Made rows of a group share their source in every epoch; in the 0th it is `order[group]`.
        first, samples, begin = (
            of.int() for of in (self.missing.cumsum(0) - self.missing, self._samples, self._begin)
        )
        group = torch.arange(len(made), dtype=torch.int32, device=x.device).sub_(first[made])
        group.remainder_(samples[made]).add_(begin[made])
        self._group = torch.cat([group.new_full((self._items,), -1), group])
        self._spans = list(zip(self._begin.tolist(), self._samples.tolist(), strict=True))
        self._runs = self._first_of_runs()

    def make(self, draws: Tensor, epoch: int, random: torch.Generator) -> Made:
        with threads_of_ours(draws.numel() * self.features.x.shape[1]):
            return self._make(draws.flatten(), epoch, random)

    def _make(self, rows: Tensor, epoch: int, random: torch.Generator) -> Made:
        item = rows % len(self.labels)
        group, order = self._group.index_select(0, item).sort(stable=True)
        real = int(torch.searchsorted(group, 0))
        wanted = self._sources(group[real:], epoch)
        sources = self.rounded(wanted)
        made, blended = int(sources.count.sum()), 0
        if self.blended is not None:
            blended = int(sources.count[self.blended[sources.y]].sum())
        x = self.features.x.new_empty(real + made - blended, self.features.x.shape[1])
        own, copy = item[order[:real]], rows[order[:real]] // len(self.labels)
        x[:real] = self.space(self.features.x.index_select(0, copy * self._items + own))
        place = torch.arange(len(rows), device=rows.device)
        spare = sources.count - wanted.count
        place[real:] += wanted.each(spare.cumsum(0) - spare)
        y = self.labels.index_select(0, item)
        blend = self.draw(x[real:], sources, random)
        return Made(x, torch.empty_like(rows).scatter_(0, order, place), y, blend)

    def rounded(self, sources: Sources) -> Sources:
        """These, or with a greater `count` where that is less work: spare rows are seen by none."""
        return sources

    def _sources(self, group: Tensor, epoch: int) -> Sources:
        """Of made rows of the groups [P], ascending: those that have a source in common."""
        group, count = group.unique_consecutive(return_counts=True)
        y = self.features.labels[self.order[group]]
        begin, turn = self._begin[y], group + epoch * self.missing[y]
        return Sources(y, self.order[begin + (turn - begin) % self._samples[y]], count)

    @abstractmethod
    def draw(self, x: Tensor, sources: Sources, random: torch.Generator) -> Blend | None:
        """Write the new rows of `sources` to `x` [P, D]; to [P − T, D] where the last T, those of
        the classes `blended`, are a `Blend`."""

    def rows(self, k: int) -> Tensor:
        """The training rows of a class, [n]."""
        begin, count = self._spans[k]
        return self.order[begin : begin + count]

    def samples(self, k: int) -> Tensor:
        """The features of a class, [n, D]; not a copy where its rows follow one another."""
        first = self._runs[k]
        if first < 0:
            return self.features.x.index_select(0, self.rows(k))
        return self.features.x[first : first + self._spans[k][1]]

    def _first_of_runs(self) -> list[int]:
        """The first row of each class whose rows follow one another, else −1."""
        most, length = len(self.order) - 1, self._samples - 1
        first = self.order[self._begin.clamp(max=most)]
        end = self.order[(self._begin + length).clamp(0, most)]
        return torch.where(end - first == length, first, -1).tolist()
