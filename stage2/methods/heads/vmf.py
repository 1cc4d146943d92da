"""The von Mises–Fisher classifier, a density on the sphere for each class [vMF]."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import Polynomial

from featbank.settings import Setting
from stage2.methods.heads.algebra import column, project, weight_gradient
from stage2.methods.heads.interface import (
    INIT,
    MAX_NORM,
    Batch,
    Context,
    Parameters,
    Settings,
    Size,
    TrainedHead,
)
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.heads.starts import linear_start
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1.0
"""Lower bound of κ, as released."""


class VMF(TrainedHead):
    """z_k = κ_k⟨ŵ_k, x̂⟩ + log C_D(κ_k) − log C_D(0), with κ_k ≥ 1 trained as well as W.

    This is the log density of x̂ in class k, relative to the uniform density on the sphere. Trained
    under `balanced_softmax`, whose log n_k is the log prior of the paper's classifier, it keeps no
    prior, as the release leaves it out of evaluation. The overlap terms of the paper's loss and its
    calibration of κ after training are left out. ``decay_bias=False`` spares κ from weight decay,
    as released.
    """

    description = "cosine classifier with a concentration per class"
    source = "vmf"
    settings = (
        INIT,
        Setting("concentration", 16.0, "κ of every class at the start", low=LEAST),
        *MAX_NORM,
    )
    biases = ("concentration",)

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(2 * classes * dim, 2 * classes)  # W and its normalised rows

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        weight = linear_start(settings, context)["weight"]
        kappa = column([s["concentration"] for s in settings], weight)
        return {"weight": weight, "concentration": kappa[:, None].repeat(1, len(context.counts))}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        kappa, rows = _concentration(parameters), _rows(parameters)
        shift, _ = log_partition(kappa, rows.shape[2])
        return project(batch.unit, rows, -shift.to(rows.dtype))

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # ∂L/∂κ_k = Σ_b G_bk (⟨ŵ_k, x̂_b⟩ − A_D(κ_k)) where κ_k is not at its bound; with M = Gᵀx̂
        # ∂L/∂w_k = κ_k/‖w_k‖·(M_k − ⟨M_k, ŵ_k⟩ŵ_k).
        weight, kappa = parameters["weight"], _concentration(parameters)
        length = weight.norm(dim=2, keepdim=True).clamp_min(1e-12)
        unit = weight / length
        toward = weight_gradient(grad, batch.unit)
        along = (toward * unit).sum(2, keepdim=True)
        _, mean = log_partition(kappa, weight.shape[2])
        slope = along.squeeze(2) - grad.sum(0) * mean.to(grad.dtype)
        return {
            "weight": toward.addcmul_(unit, along, value=-1).mul_(kappa[:, :, None] / length),
            "concentration": slope * (parameters["concentration"] >= LEAST),
        }

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return _concentration(parameters)

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        stack = {name: value[None] for name, value in parameters.items()}
        shift, _ = log_partition(_concentration(stack), context.dim)
        return affine(_rows(stack)[0], -shift[0].float(), parts=1)


def _concentration(parameters: Parameters) -> Tensor:
    """κ [C, K]."""
    return parameters["concentration"].clamp_min(LEAST)


def _rows(parameters: Parameters) -> Tensor:
    """κ_k·ŵ_k, [C, K, D]."""
    unit = torch.nn.functional.normalize(parameters["weight"], dim=2)
    return unit * _concentration(parameters)[:, :, None]


def log_partition(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """log C_D(0) − log C_D(κ) = log ₀F₁(; D/2; κ²/4), and its slope in κ.

    The slope is A_D(κ) = I_{D/2}(κ)/I_{D/2−1}(κ), the mean of the cosine. In float64 to twelve
    digits at any D and κ. Orders b = D/2 below `FEW` are reached from larger ones by
    ₀F₁(; b; x) = ₀F₁(; b+1; x) + x/(b(b+1))·₀F₁(; b+2; x), whose terms are positive.

    Parameters
    ----------
    kappa
        κ ≥ 0 of any shape, and of any floating type.
    dim
        D ≥ 1.
    """
    kappa, lowest = kappa.double(), dim / 2
    order, quarter = lowest + max(0, math.ceil(FEW - lowest)), kappa.square() / 4
    above, here = _uniform(order + 1, kappa), _uniform(order, kappa)
    while order > lowest:
        order -= 1
        below = here + torch.log1p(quarter / (order * (order + 1)) * (above - here).exp())
        above, here = here, below
    return here, kappa / dim * (above - here).exp()


FEW = 17
"""Order b from which `_uniform` is exact to rounding."""

TERMS = 8
"""Of the expansion in `_uniform`."""


def _uniform(order: float, kappa: Tensor) -> Tensor:
    """log ₀F₁(; b; κ²/4) by the expansion of I_ν(κ), ν = b − 1, uniform in κ [DLMF 10.41.3]."""
    nu = order - 1
    r = torch.sqrt(nu**2 + kappa.square())
    t, series = nu / r, torch.zeros_like(r)
    for coefficient in _expansion(nu):
        series = series * t + coefficient
    leading = r - nu * torch.log((nu + r) / 2) - (2 * math.pi * r).log() / 2
    return leading + math.lgamma(order) + series.log()


@functools.cache
def _expansion(nu: float) -> tuple[float, ...]:
    """Coefficients in t of Σ_k U_k(t)/ν^k, highest first [DLMF 10.41.9]."""
    term = total = Polynomial([1.0])
    for k in range(1, TERMS + 1):
        slope = Polynomial([0, 0, 1, 0, -1]) * term.deriv() / 2
        term = slope + (Polynomial([1, 0, -5]) * term).integ() / 8
        total += term / nu**k
    return tuple(np.flip(total.coef).tolist())
