"""Filling every class up to the largest: which rows are made, and from which sample each is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

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
        items = features.labels[: len(features.labels) // features.copies]
        counts = torch.bincount(items, minlength=classes)
        self.missing = torch.where(counts > 0, counts.max() - counts, 0)  # rows to make, [K]
        made = torch.arange(classes, device=x.device).repeat_interleave(self.missing)
        self.labels = torch.cat([items, made])
        self._items = len(items)
        self._first = self._items + self.missing.cumsum(0) - self.missing  # first row made, [K]
        self._order = features.labels.argsort(stable=True)  # training rows by class
        self._samples = torch.bincount(features.labels, minlength=classes)
        self._begin = self._samples.cumsum(0) - self._samples

    def make(self, draws: Tensor, epoch: int, random: torch.Generator) -> Made:
        rows = draws.flatten()
        item, copy = rows % len(self.labels), rows // len(self.labels)
        y = self.labels[item]
        real = item < self._items
        x = self.features.x.new_empty(len(rows), self.features.x.shape[1])
        x[real] = self.space(self.features.x[copy[real] * self._items + item[real]])
        made = (~real).nonzero().view(-1)
        own = y[made]
        turn = item[made] - self._first[own] + epoch * self.missing[own]
        source = self._order[self._begin[own] + turn % self._samples[own]]
        x[made], blend = self.draw(own, source, random)
        if blend is not None:
            slot = torch.full_like(rows, -1)
            slot[made] = blend.slot
            blend = replace(blend, slot=slot)
        return Made(x, y, blend)

    @abstractmethod
    def draw(
        self, y: Tensor, source: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Blend | None]:
        """New rows [R, D] of the classes `y` [R], from the training rows `source` [R]."""

    def samples(self, k: int) -> Tensor:
        """The training rows of a class, [n]."""
        begin = int(self._begin[k])
        return self._order[begin : begin + int(self._samples[k])]
