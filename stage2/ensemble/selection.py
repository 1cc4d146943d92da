r"""Ensemble selection: forward, greedy, with replacement [Caruana et al. 2004].

Head m gives row i the logits z_im, centred over the classes; T_m is the temperature that suits it
best on the rows that choose. A bag B of heads, in which one may be several times, has the logits

    z_i = 1/|B| Σ_{m ∈ B} z_im / T_m

and the class-balanced negative log-likelihood L(B) = Σ_i w_i [log Σ_k exp z_ik − z_iy]. Selection
begins with the best head, and adds the one with the smallest L as long as L falls.

**Cross-fitting.** A bag's figure on the rows that chose it is too good. So the logits of a fold's
rows are those of a bag that was chosen on the other folds, temperatures included.

Axes: N rows, M heads, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stage2.engine.metrics import METRICS
from stage2.engine.rows import block_rows
from stage2.engine.temperature import class_balanced, fit_temperature

MOST = 100
"""Heads in a bag at most. A gain of `GAIN` per head ends it far earlier."""

GAIN = METRICS["nll"].tie
"""Nats by which another head must lower L."""


@dataclass(frozen=True)
class Bag:
    """Chosen heads.

    Attributes
    ----------
    counts
        The number of times each head was chosen [M] int64.
    temperatures
        T of every head [M] float64.
    nll
        L on the rows that chose.
    """

    counts: Tensor
    temperatures: Tensor
    nll: float

    def __call__(self, z: Tensor) -> Tensor:
        """The logits [N, K] of heads' logits [N, M, K]."""
        factors = self.counts / (self.counts.sum() * self.temperatures)
        return torch.einsum("nmk,m->nk", z, factors.float())


def select(z: Tensor, y: Tensor, weight: Tensor) -> Bag:
    """Choose a bag of heads.

    Parameters
    ----------
    z, y
        Logits [N, M, K] float32, each centred over the classes, and labels [N].
    weight
        Weights w of the rows [N] float64, as of `balanced`; rows without weight choose nothing.
    """
    scale = fit_temperature(z, y, weight).scale
    counts, total = torch.zeros(z.shape[1], dtype=torch.int64), torch.zeros_like(z[:, 0])
    least = math.inf
    for size in range(1, MOST + 1):
        losses = _losses(z, y, weight, (scale / size).float(), total / size)
        best = int(losses.argmin())
        if losses[best] > least - GAIN:
            break
        counts[best] += 1
        total += z[:, best] * scale[best].float()
        least = float(losses[best])
    return Bag(counts, 1 / scale, least)


def cross_fitted(z: Tensor, y: Tensor, usable: Tensor, folds: Tensor) -> tuple[Tensor, list[Bag]]:
    """Logits [N, K] of rows under a bag that other rows chose, and the bag of each fold.

    Parameters
    ----------
    z, y
        As of `select`.
    usable
        Rows [N] bool that may choose, as of `balanced`.
    folds
        The fold of each row [N].
    """
    logits, bags = torch.empty_like(z[:, 0]), []
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        bag = select(z, y, balanced(y, usable & ~held_out))
        logits[held_out] = bag(z[held_out])
        bags.append(bag)
    return logits, bags


def balanced(y: Tensor, usable: Tensor) -> Tensor:
    """Weights [N] float64, Σ = 1, that give each class the same share; 0 where not `usable` [N]."""
    weight = torch.zeros(len(y), dtype=torch.float64)
    weight[usable] = class_balanced(y[usable], int(y.max()) + 1)
    return weight


def _losses(z: Tensor, y: Tensor, weight: Tensor, factor: Tensor, before: Tensor) -> Tensor:
    """L of the logits `before` [N, K] plus those of each head times its `factor` [M], [M] float64.

    Other arguments as of `select`.
    """
    losses = torch.zeros(z.shape[1], dtype=torch.float64)
    rows = block_rows(z.shape[1] * z.shape[2], z.device)
    for heads, rest, labels, share in zip(
        z.split(rows), before.split(rows), y.split(rows), weight.split(rows), strict=True
    ):
        mean = (heads * factor[:, None]).add_(rest[:, None])
        true = mean.gather(2, labels[:, None, None].expand(-1, z.shape[1], 1)).squeeze(2)
        losses += share @ (mean.logsumexp(2) - true).double()
    return losses
