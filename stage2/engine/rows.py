"""Rows of a split: what the engine asks of them, and those that are in memory.

A split with A augmentation copies has A·N rows: row a·N + i is copy a of item i. Training iterates
over the **windows** of an epoch: features in memory, and batches of rows among them. `MemoryRows`
has a single window; of float16 features it converts window by window. Rows that stay in their file
are in `stage2.engine.streamed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stage2.methods.generators import Made
from stage2.methods.heads.interface import BLOCK_ROWS

CONVERTED_BYTES = 32 << 20
"""Bytes of float32 features from which float16 ones stay so in memory, and bytes of them that are
converted at once where all are read."""

PIECE_BYTES = 256 << 20
"""Bytes of float32 features up to which float16 ones are converted `BLOCK_ROWS` rows at a time."""

WINDOW_BYTES = 8 << 20
"""Bytes of float32 features of a window of them: few enough that their memory is used again."""

BLOCK_BYTES = 4 << 20
"""Bytes of logits per block of rows on a CPU; 128 times as many on a GPU, where small blocks would
reread the weights of a large tile again and again."""


def converted_rows(dim: int) -> int:
    """Rows of float16 that are converted at once where all are read: about `CONVERTED_BYTES`, in
    pieces of `BLOCK_ROWS` rows unless one takes more than `PIECE_BYTES`."""
    piece = max(1, min(BLOCK_ROWS, PIECE_BYTES // (4 * dim)))
    return max(1, CONVERTED_BYTES // (4 * dim * piece)) * piece


def block_rows(numbers: int, device: torch.device) -> int:
    """Rows per block, for `numbers` logits per row."""
    return max(1, BLOCK_BYTES * (128 if device.type == "cuda" else 1) // (4 * numbers))


@dataclass(frozen=True)
class Window:
    """Consecutive batches of an epoch whose features are in memory.

    Attributes
    ----------
    x
        Features [n, D].
    rows
        Batches [steps, B] of rows of `x`.
    y
        Their labels [steps, B].
    made
        The generator's own account of `x`, where one made it.
    items
        Rows of the split that `x` consists of [n], where it is not the split itself.
    """

    x: Tensor
    rows: Tensor
    y: Tensor
    made: Made | None = None
    items: Tensor | None = None


class SplitRows(ABC):
    """Rows of a split: `labels` [A·N] int64, `copies` A, and features of size `dim`."""

    labels: Tensor
    copies: int
    dim: int

    @property
    def device(self) -> torch.device:
        """The device of labels and features."""
        return self.labels.device

    @abstractmethod
    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order: features [n, D] float32 and labels [n]."""

    @abstractmethod
    def windows(
        self,
        draws: Tensor,
        generator: torch.Generator,
        epoch: int = 0,
        following: Tensor | None = None,
    ) -> Iterator[Window]:
        """The windows of an epoch with the draws [steps, B], on the host or the device; `generator`
        shuffles and generates. The next call with this generator is for the draws `following`, if
        they are given."""


class MemoryRows(SplitRows):
    """Features `x` [A·N, D] and `labels` [A·N], all in the memory of one device.

    Float32 features are used as they are. Float16 ones stay so: blocks and windows of them are
    converted to float32, which is exact, and then scaled in place by `scale`.
    """

    def __init__(
        self,
        x: Tensor,
        labels: Tensor,
        *,
        copies: int = 1,
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.x, self.labels, self.copies, self.dim = x.contiguous(), labels, copies, x.shape[1]
        self.scale = scale

    @property
    def packed(self) -> bool:
        """Whether the features are float16."""
        return self.x.dtype == torch.float16

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows, in one block; of float16 features `converted_rows` at a time."""
        if not self.packed:
            yield self.x, self.labels
            return
        size = converted_rows(self.dim)
        for x, y in zip(self.x.split(size), self.labels.split(size), strict=True):
            yield self._converted(x), y

    def windows(
        self,
        draws: Tensor,
        generator: torch.Generator,
        epoch: int = 0,
        following: Tensor | None = None,
    ) -> Iterator[Window]:
        """The epoch as it was drawn; of float16 features in windows of `WINDOW_BYTES`."""
        draws = draws.to(self.device, non_blocking=True)
        if not self.packed:
            yield Window(self.x, draws, self.labels.take(draws))
            return
        for part in draws.split(max(1, WINDOW_BYTES // (4 * self.dim * draws.shape[1]))):
            items = part.flatten()
            rows = torch.arange(len(items), device=self.device).view_as(part)
            x = self._converted(self.x.index_select(0, items))
            yield Window(x, rows, self.labels[part], items=items)

    def subset(self, index: Tensor, *, copies: int = 1) -> MemoryRows:
        """Some rows [n], copied."""
        return MemoryRows(self.x[index], self.labels[index], copies=copies, scale=self.scale)

    def _converted(self, x: Tensor) -> Tensor:
        return x.float() if self.scale is None else self.scale(x.float())
