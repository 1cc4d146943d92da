"""A subset of the rows of a split, with a batch stream of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from stage2.engine.model import ViewData
from stage2.engine.rows import MemoryRows, SplitRows, Window


def subset(rows: SplitRows, items: Tensor, *, copies: int | None = None) -> SplitRows:
    """Some items of a split.

    Rows in memory are copied; streamed ones are read from the same buffers.

    Parameters
    ----------
    rows
        The split: A copies of N items.
    items
        The items kept [M], ascending.
    copies
        How many of the first copies are kept; by default all A.
    """
    total = len(rows.labels) // rows.copies
    copies = rows.copies if copies is None else copies
    items = items.to(rows.device)
    index = torch.cat([items + copy * total for copy in range(copies)])
    if isinstance(rows, MemoryRows):
        return rows.subset(index, copies=copies)
    return SubsetRows(rows, index, copies=copies)


class SubsetRows(SplitRows):
    """The rows `index` [A·M], ascending, of a split that is streamed."""

    def __init__(self, rows: SplitRows, index: Tensor, *, copies: int) -> None:
        self.labels, self.copies, self.dim = rows.labels[index], copies, rows.dim
        self._rows, self._index = rows, index.cpu()

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows in order, in the blocks of the split."""
        kept = torch.zeros_like(self._rows.labels, dtype=torch.bool)
        kept[self._index.to(kept.device)] = True
        start, last = 0, int(self._index[-1])
        for x, y in self._rows.blocks():
            here = kept[start : start + len(x)]
            if here.any():
                yield x[here], y[here]
            start += len(x)
            if start > last:
                return

    def windows(
        self,
        draws: Tensor,
        generator: torch.Generator,
        epoch: int = 0,
        following: Tensor | None = None,
    ) -> Iterator[Window]:
        """The windows of the split for these draws of the subset."""
        after = None if following is None else self._index[following.cpu()]
        yield from self._rows.windows(self._index[draws.cpu()], generator, epoch, after)


def fold_view(
    data: ViewData, split: str, trained: Tensor, held_out: Tensor, *, watched: bool
) -> ViewData:
    """A view as one fold sees it.

    Parameters
    ----------
    data
        The whole view.
    split
        The name of the split that the rows held out make up.
    trained, held_out
        The items that the fold trains on, and those it is measured on, copy 0 of each.
    watched
        Whether training follows val, where there is one, as some generators do.

    Returns
    -------
    The view of a bank cut to the items trained on, but with the class groups of the whole one.
    """
    train = subset(data.train, trained)
    labels = train.labels[: len(trained)]
    counts = torch.bincount(labels, minlength=len(data.counts)).cpu().numpy().astype("float64")
    kept = {name: rows for name, rows in data.evaluated.items() if watched and name == "val"}
    held = subset(data.train, held_out, copies=1)
    return replace(data, train=train, evaluated={**kept, split: held}, counts=counts)
