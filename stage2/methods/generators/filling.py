"""Filling every class up to the largest: which rows are made, and from which sample each is."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from stage2.methods.generators.interface import Blend, Features, Generation, Made


class Filling(Generation):
    """n_max − n_k rows of every class that has samples, made anew each time they are drawn.

    Rows of a class are spread evenly over its samples: made row r of epoch t comes from the sample
    r + t·(n_max − n_k) modulo their number, so that what does not divide goes round as well.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        x, classes = features.x, len(features.counts)
        counts = torch.bincount(features.items, minlength=classes)
        self.missing = torch.where(counts > 0, counts.max() - counts, 0)  # rows to make, [K]
        made = torch.arange(classes, device=x.device).repeat_interleave(self.missing)
        self.labels = torch.cat([features.items, made])
        self._items = len(features.items)
        self.order = features.labels.argsort(stable=True)  # training rows by class
        samples = torch.bincount(features.labels, minlength=classes)
        begin = samples.cumsum(0) - samples
        first = self._items + self.missing.cumsum(0) - self.missing  # of the rows to make
        self._by_class = torch.stack([first, self.missing, begin, samples])
        self._spans = list(zip(begin.tolist(), samples.tolist(), strict=True))
        self._runs = self._first_of_runs(begin, samples)

    def make(self, draws: Tensor, epoch: int, random: torch.Generator) -> Made:
        rows = draws.flatten()
        item, copy = rows % len(self.labels), rows // len(self.labels)
        y = self.labels.index_select(0, item)
        exists = item < self._items
        real, made = exists.nonzero().view(-1), (~exists).nonzero().view(-1)
        k = y.index_select(0, made)
        first, missing, begin, samples = self._by_class.index_select(1, k)
        turn = item.index_select(0, made) - first + epoch * missing
        source = self.order.index_select(0, begin + turn % samples)
        order = self.arranged(k, source)
        made, k, source = (of.index_select(0, order) for of in (made, k, source))
        blended = 0 if self.blended is None else int(self.blended.index_select(0, k).sum())
        x = self.features.x.new_empty(len(rows) - blended, self.features.x.shape[1])
        own = copy.index_select(0, real) * self._items + item.index_select(0, real)
        x[: len(real)] = self.space(self.features.x.index_select(0, own))
        place = torch.empty_like(rows)
        place[torch.cat([real, made])] = torch.arange(len(rows), device=rows.device)
        return Made(x, place, y, self.draw(x[len(real) :], k, source, random))

    def arranged(self, y: Tensor, source: Tensor) -> Tensor:
        """The order [P] in which rows of the classes `y` [P] from the training rows `source` [P]
        are made: classes one after the other, those of `blended` last."""
        return y.argsort(stable=True)

    @abstractmethod
    def draw(self, x: Tensor, y: Tensor, source: Tensor, random: torch.Generator) -> Blend | None:
        """Write new rows of the classes `y` [P], from the training rows `source` [P], as they are
        `arranged`, to `x` [P, D]; to [P − T, D] where the last T are a `Blend`."""

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

    def _first_of_runs(self, begin: Tensor, samples: Tensor) -> list[int]:
        """The first row of each class whose rows follow one another, else −1."""
        last = len(self.order) - 1
        first = self.order[begin.clamp(max=last)]
        end = self.order[(begin + samples - 1).clamp(0, last)]
        return torch.where(end - first == samples - 1, first, -1).tolist()
