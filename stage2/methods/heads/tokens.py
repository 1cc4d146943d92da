"""Heads that see each row as T tokens of D features.

Rows of a token view are flat, [B, T·D], token after token; a view of rows is one token, T = 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stage2.methods.heads.interface import (
    MAX_NORM,
    Batch,
    Context,
    Parameters,
    Settings,
    Size,
    TrainedHead,
)
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

BOUND = tuple(setting for setting in MAX_NORM if setting.name != "max_norm_fraction")
"""Settings of the norm bound on the rows of W, without that by W₀: no W₀ has the shape of W."""

PIECE_BYTES = 128 << 20
"""Bytes of tokens, and of results of a head from them, at once on a CPU; 16 times that on a GPU."""


class TokenHead(TrainedHead):
    """A trained head that pools the tokens of a row and classifies the result.

    Batches of more than `PIECE_BYTES`, which evaluation makes, are taken in pieces.
    """

    takes_tokens = True

    @abstractmethod
    def size(self, settings: Settings, dim: int, classes: int, tokens: int = 1) -> Size:
        """Memory of one configuration on rows of T·D = `dim` numbers, `tokens` T."""

    @abstractmethod
    def numbers(self, parameters: Parameters, batch: Batch) -> int:
        """Numbers that `piece_logits` and `piece_gradients` hold for each row."""

    @abstractmethod
    def piece_logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Compute `logits` of a piece."""

    @abstractmethod
    def piece_gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        """Compute `gradients` of a piece."""

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        z = [self.piece_logits(parameters, piece) for piece in self._pieces(parameters, batch)]
        return z[0] if len(z) == 1 else torch.cat(z)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        total: Parameters = {}
        start = 0
        for piece in self._pieces(parameters, batch):
            stop = start + rows_of(piece)
            found = self.piece_gradients(parameters, piece, grad[start:stop])
            for name, values in found.items():
                total[name] = total[name].add_(values) if start else values
            start = stop
        return total

    def _pieces(self, parameters: Parameters, batch: Batch) -> Iterator[Batch]:
        room = PIECE_BYTES * (16 if batch.source.is_cuda else 1)
        row_bytes = batch.source.element_size() * self.numbers(parameters, batch)
        size = max(1, room // row_bytes)
        if rows_of(batch) <= size:
            yield batch
            return
        for start in range(0, rows_of(batch), size):
            part = slice(start, start + size)
            if batch.rows is None:
                yield batch.context.batch(batch.source[part])
            else:
                yield batch.context.batch(batch.source, batch.rows[part])


def rows_of(batch: Batch) -> int:
    """Number of rows B, known before they are gathered."""
    return len(batch.source if batch.rows is None else batch.rows)


def token_dim(context: Context) -> int:
    """D of a token."""
    return context.dim // (context.tokens or 1)


def tokens_of(batch: Batch) -> Tensor:
    """Tokens [R, T, D] of R = B rows, or of R = B·C where configurations have their own."""
    return split_tokens(batch.x, batch.context)


def split_tokens(x: Tensor, context: Context) -> Tensor:
    """The same of features [B, T·D] or [B, C, T·D]."""
    return x.reshape(-1, context.tokens or 1, token_dim(context))
