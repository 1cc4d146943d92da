"""Linear discriminant analysis with a shrunk covariance [Friedman 1989]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.affine import AffineHead
from stage2.methods.heads.interface import Batch, Context, Parameters, Settings
from stage2.methods.heads.moments import (
    class_log_prior,
    eigen_inverse,
    moments,
    moments_bytes,
    rounding,
)
from stage2.methods.heads.transforms import rank_empty_last
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class LDA(AffineHead):
    """z_k = log N(x; μ_k, Σ_s) + log prior_k, up to terms common to all classes.

    Σ_s = (1 − s)Σ + s (tr Σ/D) I with s the ``shrinkage`` and Σ the within-class covariance,
    pooled over all N rows and divided by N. With ``prior=counts`` this is scikit-learn's
    ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)``. With other priors, scikit-learn also
    weighs the covariances of the classes by them; here ``prior=uniform`` only drops log π and keeps
    Σ, so that a class with one row, whose covariance is 0, does not weigh as much as the largest.

    Where Σ_s is singular (s = 0 and few rows), directions without variance are ignored, as in
    scikit-learn. Without variance in any direction, Σ_s = I: the nearest class mean. A class
    without samples is never predicted. With fewer rows than features all is solved in the span of
    the rows (`moments`), which is enough: all class means lie in it.
    """

    description = "Gaussian classes with a shared covariance, shrunk towards a multiple of I"
    source = "lda"
    settings = (
        Setting(
            "shrinkage",
            0.1,
            "s: 0 keeps the covariance, 1 makes it a multiple of I; grid 0…1",
            low=0,
            high=1,
        ),
        Setting(
            "prior",
            "uniform",
            "class prior: equal for all, or the share π of the training counts",
            choices=("uniform", "counts"),
        ),
    )

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        spectrum = _spectrum(context)
        shape = (len(settings), len(context.counts))
        weight = torch.empty(*shape, context.dim, device=context.device)
        bias = torch.empty(shape, device=context.device)
        for c, s in enumerate(settings):
            weight[c], bias[c] = spectrum.solution(s["shrinkage"])
            if s["prior"] == "counts":
                bias[c] += spectrum.log_prior
        return {"weight": weight, "bias": bias, "empty": spectrum.empty.expand(shape).clone()}

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        return moments_bytes(dim, classes, rows, weighted=False)

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        return log_shares if settings["prior"] == "counts" else np.zeros_like(log_shares)

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return rank_empty_last(super().logits(parameters, batch), parameters["empty"])


@dataclass(frozen=True)
class _Spectrum:
    """Class means and the within-class covariance VEVᵀ, inverted for any shrinkage, in
    R = min(N, D) dimensions.

    Attributes
    ----------
    values, vectors
        E [R] and V [D, R].
    level
        tr Σ/D.
    means
        Vᵀ(μ_k − x̄), [R, K]; 0 for an empty class.
    mean
        x̄ [D], the mean of all rows.
    log_prior
        log π [K]; 0 for an empty class.
    empty
        Whether a class has no rows [K].
    noise
        Eigenvalues up to this count as 0.
    """

    values: Tensor
    vectors: Tensor
    level: Tensor
    means: Tensor
    mean: Tensor
    log_prior: Tensor
    empty: Tensor
    noise: float

    def solution(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Compute W [K, D] and b [K] for a shrinkage and equal priors."""
        # With δ_k = μ_k − x̄, up to terms that do not depend on k:
        # −½(x − μ_k)ᵀΣ⁻¹(x − μ_k) = (x − x̄)ᵀΣ⁻¹δ_k − ½ δ_kᵀΣ⁻¹δ_k.
        shrunk = (1 - shrinkage) * self.values + shrinkage * self.level
        along = self.means * eigen_inverse(shrunk, self.noise)[:, None]
        weight = (self.vectors @ along).t()
        return weight, -(weight @ self.mean) - (self.means * along).sum(0) / 2


def _spectrum(context: Context) -> _Spectrum:
    """Compute the spectrum in one pass over the rows, and cache it in the context."""
    cache = context.derived.setdefault("lda", {})
    if not cache:
        cache["spectrum"] = _decomposed(context)
    return cache["spectrum"]


def _decomposed(context: Context) -> _Spectrum:
    # Σ_k Σ_{i of class k} (x_i − μ_k)(x_i − μ_k)ᵀ = XᵀX − Σ_k s_k s_kᵀ/n_k, s_k = n_k μ_k.
    totals = moments(context, [torch.ones(len(context.counts), device=context.device).double()])
    (gram,) = totals.grams
    rows, total = totals.rows.clamp_min(1), totals.rows.sum()
    within = (gram - (totals.sums / rows[:, None]).t() @ totals.sums) / total
    values, vectors = torch.linalg.eigh(within)
    noise = rounding(gram / total)
    values.clamp_min_(0)
    level = values.sum() / context.dim
    if values[-1] <= noise:  # no variance at all
        values, level = torch.ones_like(values), torch.ones_like(level)
    mean = totals.sums.sum(0) / total
    empty = totals.rows == 0
    means = (totals.sums / rows[:, None] - mean).masked_fill_(empty[:, None], 0)
    return _Spectrum(
        values=values,
        vectors=totals.lifted(vectors),
        level=level,
        means=(means @ vectors).t(),
        mean=totals.lifted(mean),
        log_prior=class_log_prior(context).masked_fill_(empty, 0),
        empty=empty,
        noise=noise,
    )
