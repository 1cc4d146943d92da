"""The training that the engine and its opponents share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

Heads = tuple[Tensor, Tensor]
"""Parameters of C linear heads: W [C, K, D] and b [C, K]."""


@dataclass(frozen=True)
class Training:
    """The rows, their order, the learning rates and the start of C linear heads.

    Attributes
    ----------
    x, y
        Features [N, D] and labels [N].
    weight, bias
        Initial W [C, K, D] and b [C, K]; not to be changed.
    rates
        Learning rates [T, C] of each epoch.
    draws
        Draws the rows of each epoch, [steps, B], as the engine does.
    batch_size
        B.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    bias: Tensor
    rates: Tensor
    draws: Callable[[], Iterator[Tensor]]
    batch_size: int

    def epochs(self) -> Iterator[Tensor]:
        """The rows of each epoch [steps, B], on the device of the features."""
        return (rows.to(self.x.device) for rows in self.draws())

    def steps(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches x [B, D] and y [B], and their learning rates [C]."""
        for rates, epoch in zip(self.rates, self.epochs(), strict=True):
            for rows in epoch:
                yield self.x[rows], self.y[rows], rates
