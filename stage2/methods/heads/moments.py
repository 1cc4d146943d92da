"""Sums over the training rows for closed-form heads, in one pass and in float64.

Covariances are differences of these sums, so a direction in which rows differ by less than about
1e-7 of their length has variance 0.

N < D rows span N dimensions at most. There the sums are those of the rows' coordinates in an
orthonormal basis Q [D, N] of their span, x_i = Qr_i, from the QR decomposition of Xᵀ: whatever does
not change when the features are rotated can be solved in N dimensions and mapped back by Q
[Hastie & Tibshirani 2004]. Cubic in min(N, D), and linear in the larger of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stage2.methods.heads.interface import BLOCK_ROWS, Context
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

PANEL = 512
"""Columns of a Gram matrix computed at a time."""


@dataclass(frozen=True)
class Moments:
    """Sums over the training rows, float64, in R = min(N, D) dimensions.

    Attributes
    ----------
    rows
        Rows of each class [K], augmentation copies included.
    sums
        Sums of the rows of each class [K, R].
    grams
        Σ_i ω_{y_i} x_i x_iᵀ [R, R] for each choice of class weights ω.
    basis
        Q [D, R] for N < D; None where R = D and the dimensions are the features.
    """

    rows: Tensor
    sums: Tensor
    grams: list[Tensor]
    basis: Tensor | None = None

    def lifted(self, vectors: Tensor) -> Tensor:
        """Vectors [R] or [R, n] as features: [D] or [D, n]."""
        return vectors if self.basis is None else self.basis @ vectors


def moments(context: Context, weights: Sequence[Tensor]) -> Moments:
    """Sum over the training rows in one pass; `weights` are the choices of ω [K], float64."""
    basis, context = _spanned(context)
    classes, dim = len(context.counts), context.dim
    rows = torch.zeros(classes, dtype=torch.float64, device=context.device)
    sums = rows.new_zeros(classes, dim)
    grams = [rows.new_zeros(dim, dim) for _ in weights]
    neutral = [bool((weight == 1).all()) for weight in weights]  # a product would copy the rows
    for part, y in pieces(context):
        x = part.double()
        rows += torch.bincount(y, minlength=classes)
        sums.index_add_(0, y, x)
        for weight, gram, alike in zip(weights, grams, neutral, strict=True):
            _add_gram(gram, x if alike else x * weight[y, None], x)
        del part, x  # before the next ones are made
    return Moments(rows, sums, [gram.tril_().add_(gram.tril(-1).t()) for gram in grams], basis)


def moments_bytes(dim: int, classes: int, rows: int, *, weighted: bool) -> int:
    """Bytes of `moments` with one ω, `weighted` or all ones, and of solving for W by them: rows in
    float64 or an eigendecomposition, whichever takes more, and five matrices [K, D]. With fewer
    `rows` than D, four of [rows, D] instead of those of the rows."""
    reduced = min(rows, dim)
    held = (1 + weighted) * BLOCK_ROWS * dim if reduced == dim else 4 * rows * dim
    return 8 * (max(held + reduced**2, 5 * reduced**2) + 5 * dim * classes)


def _spanned(context: Context) -> tuple[Tensor | None, Context]:
    """Q [D, N] and a context of the rows' N coordinates; None and `context` where N ≥ D."""
    if not 0 < context.counts.sum() < context.dim:
        return None, context
    held: list[Tensor] = []
    labels: list[Tensor] = []
    for x, y in pieces(context):
        held.append(x.double())
        labels.append(y)
        if sum(map(len, labels)) >= context.dim:  # augmentation copies, which no count includes
            return None, context
    rows, y = torch.cat(held), torch.cat(labels)
    held.clear()
    basis, triangle = torch.linalg.qr(rows.t())
    coordinates = triangle.t().contiguous()
    return basis, replace(context, dim=len(y), blocks=lambda: [(coordinates, y)])


def _add_gram(gram: Tensor, weighted: Tensor, x: Tensor) -> None:
    """Add weightedᵀ·x to `gram` [D, D] on and below the diagonal: two thirds of the full time."""
    for start in range(0, len(gram), PANEL):
        stop = start + PANEL
        gram[start:, start:stop].addmm_(weighted[:, start:].t(), x[:, start:stop])


def pieces(context: Context, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over at most `BLOCK_ROWS` training rows at a time, or over `most` if these are fewer:
    features [n, D], labels [n]."""
    size = min(most or BLOCK_ROWS, BLOCK_ROWS)
    for x, y in context.blocks():
        yield from zip(x.split(size), y.split(size), strict=True)
        del x, y  # before the next block is made


def class_weights(context: Context, balanced: bool) -> Tensor:
    """Class weights ω [K] float64: 1, or N/(K·n_k) where K counts the classes with rows.

    The latter is scikit-learn's ``class_weight="balanced"``: every class has the same total weight,
    and the mean over all rows is 1. An empty class has weight 0. A background has weight 1, and
    the others are balanced among themselves.
    """
    rows, background = context.counts, context.facts.background
    n = rows if background is None else np.where(np.arange(len(rows)) == background, 0, rows)
    present = n > 0
    balance = n.sum() / (max(present.sum(), 1) * np.maximum(n, 1)) * present
    if background is not None:
        balance[background] = 1
    return torch.from_numpy(balance if balanced else np.ones_like(rows)).to(context.device)


def class_log_prior(context: Context) -> Tensor:
    """log π [K] float64 by the training rows, or by the counts from outside where the bank has
    them; −inf for a class without."""
    counts = torch.from_numpy(context.facts.prior_counts(context.counts)).to(context.device)
    return (counts / counts.sum()).log()


def eigen_inverse(values: Tensor, noise: float) -> Tensor:
    """Pseudo-inverse of eigenvalues v: 1/v, or 0 where v is no more than rounding `noise`."""
    return torch.where(values > noise, 1 / values, 0.0)


def rounding(gram: Tensor) -> float:
    """Bound on the rounding error of an eigenvalue 0 in a difference of sums as large as `gram`."""
    return 8 * torch.finfo(torch.float64).eps * float(gram.trace())
