"""Discriminant analysis with a shrunk covariance for each class [Friedman 1989]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.interface import Batch, Context, Head, Parameters, Settings, Size
from stage2.methods.heads.moments import class_log_prior, moments, moments_bytes, pieces, rounding
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.transforms import rank_empty_last
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 1e-6
"""Smallest eigenvalue of a class's covariance, relative to the mean one of the pooled."""

SCATTERED_ROWS = 1024
"""Rows that are taken to their components at once."""

WHITENED_BYTES = 16 << 20
"""Bytes of whitened rows that `RDA.logits` holds at once on a CPU; 16 times that on a GPU."""


class RDA(Head):
    """z_k = −½(x − μ_k)ᵀΣ_k⁻¹(x − μ_k) − ½log|Σ_k| + log prior_k, with Friedman's eq. 16 and 18:

    Σ_k(λ) = ((1 − λ)S_k + λS) / ((1 − λ)n_k + λN),  S_k = Σ_{i of class k} (x_i − μ_k)(x_i − μ_k)ᵀ,
    S = ΣS_k, and Σ_k(λ, γ) = (1 − γ)Σ_k(λ) + γ (tr Σ_k(λ)/D) I.

    λ (``pooling``) is the same for all classes, its effect is not: the pooled S has the share
    λN/((1 − λ)n_k + λN) of the rows, so that a class of few rows has nearly the pooled covariance
    where a large one keeps its own. λ = 1 is `LDA` with its shrinkage γ.

    It works on the ``dims`` leading principal components of the training rows, or on all that have
    variance; D in the formula is then their number. That bound on memory is not Friedman's: a
    configuration has K matrices of that size. Eigenvalues of Σ_k below `FLOOR` of their mean in the
    pooled covariance are raised to it, so that a class of one row has a finite density at λ = 0.
    Without variance in any class Σ_k = I: the nearest class mean. A class without samples is never
    predicted.
    """

    description = "Gaussian classes, each covariance shrunk towards the pooled one and towards I"
    source = "lda"
    settings = (
        Setting(
            "pooling",
            0.5,
            "λ: 0 keeps each class's own covariance, 1 pools them; grid 0.01…1",
            low=0,
            high=1,
        ),
        Setting(
            "shrinkage",
            0.1,
            "γ: 0 keeps the covariance, 1 makes it a multiple of I; grid 0…1",
            low=0,
            high=1,
        ),
        Setting("dims", 128, "most principal components; D or more for all", low=1),
        Setting(
            "prior",
            "uniform",
            "class prior: equal for all, or the share π of the training counts",
            choices=("uniform", "counts"),
        ),
    )
    shared = ("dims",)

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        kept = min(settings["dims"], dim)
        return Size(kept * (dim + classes * (kept + 1)), 2 * classes)

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        kept = min(settings["dims"], dim)
        scattered = 3 * (SCATTERED_ROWS * dim + classes * kept**2)
        return moments_bytes(dim, classes, rows, weighted=False) + 8 * scattered

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        return log_shares if settings["prior"] == "counts" else np.zeros_like(log_shares)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        scatters = _scatters(settings[0]["dims"], context)
        parts = [scatters.solution(s["pooling"], s["shrinkage"]) for s in settings]
        whitening, bias = (torch.stack(values) for values in zip(*parts, strict=True))
        counts = torch.tensor([[float(s["prior"] == "counts")] for s in settings])
        bias += counts.to(bias) * scatters.log_prior
        shape = (len(settings), -1, -1)
        return {
            "basis": scatters.basis.t().float().expand(shape).clone(),
            "center": scatters.mean.float().expand(shape[:2]).clone(),
            "whitening": whitening.float(),
            "offset": (whitening @ scatters.means[:, :, None]).squeeze(3).float(),
            "bias": bias.float(),
            "empty": scatters.empty.expand(shape[:2]).clone(),
        }

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        each = []
        for c in range(len(parameters["bias"])):
            p = {name: values[c] for name, values in parameters.items()}
            y = torch.nn.functional.linear(batch.x - p["center"], p["basis"])
            most = WHITENED_BYTES * (16 if y.is_cuda else 1) // max(1, 4 * y.numel())
            distances = [
                (y @ whitening.transpose(1, 2) - offset[:, None]).square().sum(2)
                for whitening, offset in zip(
                    p["whitening"].split(max(1, most)), p["offset"].split(max(1, most)), strict=True
                )
            ]
            each.append(p["bias"] - torch.cat(distances).t() / 2)
        return rank_empty_last(torch.stack(each, 1), parameters["empty"])

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        return Reduction("quadratic", parameters)


@dataclass(frozen=True)
class _Scatters:
    """Scatter matrices S_k of the classes in Q principal components, float64.

    Attributes
    ----------
    basis, mean
        The components [D, Q], and x̄ [D].
    means
        μ_k − x̄ in them [K, Q]; 0 for an empty class.
    own
        S_k [K, Q, Q].
    rows, log_prior, empty
        n_k [K], augmentation copies included; log π [K], 0 for an empty class; which are empty [K].
    noise
        Variance up to this counts as none.
    """

    basis: Tensor
    mean: Tensor
    means: Tensor
    own: Tensor
    rows: Tensor
    log_prior: Tensor
    empty: Tensor
    noise: float

    def solution(self, pooling: float, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Compute Σ_k^{−½} [K, Q, Q] and −½ log|Σ_k| [K]."""
        pooled, total = self.own.sum(0), self.rows.sum()
        size = len(pooled)
        level = pooled.trace() / (size * total)
        if level <= self.noise:
            return torch.eye(size).to(self.own).expand_as(self.own), torch.zeros_like(self.rows)
        weight = ((1 - pooling) * self.rows + pooling * total).clamp_min(1)
        mixed = torch.lerp(self.own, pooled, pooling) / weight[:, None, None]
        values, vectors = torch.linalg.eigh(mixed)
        values = torch.lerp(values, values.mean(1, keepdim=True), shrinkage)
        values = values.clamp_min(FLOOR * level)
        whitening = vectors.transpose(1, 2) / values.sqrt()[:, :, None]
        return whitening, -values.log().sum(1) / 2


def _scatters(dims: int, context: Context) -> _Scatters:
    """Compute the scatter matrices in two passes over the rows, and cache them in the context."""
    cache = context.derived.setdefault("rda", {})
    if dims not in cache:
        cache[dims] = _computed(dims, context)
    return cache[dims]


def _computed(dims: int, context: Context) -> _Scatters:
    totals = moments(context, [torch.ones(len(context.counts), device=context.device).double()])
    (gram,) = totals.grams
    rows, total = totals.rows.clamp_min(1), totals.rows.sum()
    mean = totals.sums.sum(0) / total
    empty = totals.rows == 0
    noise = rounding(gram / total)
    values, vectors = torch.linalg.eigh(gram / total - torch.outer(mean, mean))  # ascending
    leading = vectors[:, -min(dims, max(1, int((values > noise).sum()))) :]
    means = ((totals.sums / rows[:, None] - mean) @ leading).masked_fill_(empty[:, None], 0)
    basis, center = totals.lifted(leading), totals.lifted(mean)
    own = means.new_zeros(len(rows), leading.shape[1], leading.shape[1])
    for x, y in pieces(context, SCATTERED_ROWS):
        order = y.argsort(stable=True)
        found, counts = y[order].unique_consecutive(return_counts=True)
        deviations = (x[order].double() - center) @ basis - means[y[order]]
        for k, part in zip(found.tolist(), deviations.split(counts.tolist()), strict=True):
            own[k].addmm_(part.t(), part)
        del x, deviations  # before the next ones are made
    return _Scatters(
        basis=basis,
        mean=center,
        means=means,
        own=own,
        rows=totals.rows,
        log_prior=class_log_prior(context).masked_fill_(empty, 0),
        empty=empty,
        noise=noise,
    )
