"""Ridge regression to one-hot targets, in closed form [Hoerl & Kennard 1970]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.affine import AffineHead
from stage2.methods.heads.interface import Context, Parameters, Settings
from stage2.methods.heads.moments import (
    Moments,
    class_weights,
    eigen_inverse,
    moments,
    moments_bytes,
    rounding,
)
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class Ridge(AffineHead):
    """z = Wx + b with W, b = argmin Σ_i ω_{y_i} ‖Wx_i + b − onehot(y_i)‖² + λ‖W‖².

    Closed form W = (XᵀX + λI)⁻¹XᵀY on centred X and Y; the intercept b is not penalised. λ (``l2``)
    is absolute, and 1 by default, as in scikit-learn's Ridge and RidgeClassifier: the sum over the
    rows grows with N while the penalty does not, so its effect shrinks with more data. ω is 1, or
    scikit-learn's N/(K·n_k) with ``class_weight=balanced``. RidgeClassifier has targets ±1: its
    decision values are 2z − 1.

    The logits are regressed targets, roughly between 0 and 1 and with the same sum for every row:
    good for ranking, too flat as log-probabilities. An empty class has logit 0, never the largest.
    Where XᵀX + λI is singular (λ = 0), W is the solution of least norm. With fewer rows than
    features the dual is solved, in the span of the rows (`moments`).
    """

    description = "ridge regression to one-hot targets, closed form"
    source = "ridge"
    settings = (
        Setting("l2", 1.0, "penalty λ, absolute; grid 1e-3…1e6", low=0),
        Setting(
            "class_weight",
            "none",
            "equal weight for every row, or for every class",
            choices=("none", "balanced"),
        ),
    )

    bends = "regressed targets"

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        return moments_bytes(dim, classes, rows, weighted=settings["class_weight"] == "balanced")

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        if settings["class_weight"] == "balanced":
            return np.zeros_like(log_shares)
        return np.exp(log_shares)  # its logits are shares, not logs of them

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        weightings = list(dict.fromkeys(s["class_weight"] for s in settings))
        by_weighting = spectra(weightings, context)
        shape = (len(settings), len(context.counts))
        weight = torch.empty(*shape, context.dim, device=context.device)
        bias = torch.empty(shape, device=context.device)
        for c, s in enumerate(settings):
            weight[c], bias[c] = by_weighting[s["class_weight"]].solution(s["l2"])
        return {"weight": weight, "bias": bias}


@dataclass(frozen=True)
class _Spectrum:
    """The centred normal equations (VEVᵀ + λI)Wᵀ = XᵀY, solved for any λ, in R = min(N, D)
    dimensions.

    Attributes
    ----------
    values, vectors
        E [R] and V [D, R].
    targets
        VᵀXᵀY [R, K].
    mean, share
        Weighted means of the rows [D] and of the targets [K].
    noise
        Eigenvalues up to this count as 0.
    """

    values: Tensor
    vectors: Tensor
    targets: Tensor
    mean: Tensor
    share: Tensor
    noise: float

    def solution(self, l2: float) -> tuple[Tensor, Tensor]:
        """Compute W [K, D] and b [K] for λ."""
        inverse = eigen_inverse(self.values + l2, self.noise)
        weight = (self.vectors @ (self.targets * inverse[:, None])).t()
        return weight, self.share - weight @ self.mean


def spectra(weightings: Sequence[str], context: Context) -> dict[str, _Spectrum]:
    """Compute one per class weighting in one pass over the rows, and cache them in the context."""
    cache = context.derived.setdefault("ridge", {})
    missing = [name for name in weightings if name not in cache]
    if missing:
        weights = [class_weights(context, name == "balanced") for name in missing]
        totals = moments(context, weights)
        for name, weight, gram in zip(missing, weights, totals.grams, strict=True):
            cache[name] = _spectrum(totals, weight, gram)
    return cache


def _spectrum(totals: Moments, weight: Tensor, gram: Tensor) -> _Spectrum:
    # With x̄ and ȳ the ω-weighted means and Σω over all rows, the centred sums are
    # Σ_i ω(x_i − x̄)(x_i − x̄)ᵀ = G − (Σω) x̄x̄ᵀ  and, for one-hot y,
    # Σ_i ω(x_i − x̄)(y_i − ȳ)_k = ω_k (Σ_{i of class k} x_i − n_k x̄).
    total = weight @ totals.rows
    mean = weight @ totals.sums / total
    values, vectors = torch.linalg.eigh(gram - total * torch.outer(mean, mean))
    targets = (weight[:, None] * (totals.sums - torch.outer(totals.rows, mean))).t()
    return _Spectrum(
        values=values.clamp_min_(0),
        vectors=totals.lifted(vectors),
        targets=vectors.t() @ targets,
        mean=totals.lifted(mean),
        share=weight * totals.rows / total,
        noise=rounding(gram),
    )
