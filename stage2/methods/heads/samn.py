"""The linear classifier with row norms in the order of the counts [SAMN]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stage2.methods.heads.algebra import project, weight_gradient
from stage2.methods.heads.interface import (
    INIT,
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

ORDERED = ("norm", "lift")
"""Parameters r [C, K] that do not fall as n_k grows."""


class SAMN(TrainedHead):
    """z_k = g_k⟨ŵ_k, x⟩ + h_k + b_k with g_k = exp(1/softplus(r_k)), and h_k of an r of its own.

    Both r start at (n_k − n_min)/(n_max − n_min), as released: norms from 4.2 of the rarest class
    to 2.1 of the largest. After each epoch isotonic regression on the counts (pool adjacent
    violators) brings r back into their order. The release does so in every forward pass, where
    classes once pooled never part again.
    """

    description = "linear classifier whose row norms do not fall as classes get rarer"
    source = "samn"
    settings = (INIT,)
    biases = ("bias", "lift")

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(2 * classes * dim, 2 * classes)  # W and its normalised rows

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        counts = context.facts.prior_counts(context.counts)
        share = (counts - counts.min()) / max(1.0, np.ptp(counts))
        start = torch.from_numpy(share).float().to(context.device)
        stacked = {name: start.repeat(len(settings), 1) for name in ORDERED}
        return {**linear_start(settings, context), **stacked}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(batch.x, *_affine(parameters))

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # With M = Gᵀx: ∂L/∂w_k = g_k/‖w_k‖·(M_k − ⟨M_k, ŵ_k⟩ŵ_k) and ∂L/∂g_k = ⟨M_k, ŵ_k⟩.
        weight, total = parameters["weight"], grad.sum(0)
        length = weight.norm(dim=2, keepdim=True).clamp_min(1e-12)
        unit, norm = weight / length, _positive(parameters["norm"])
        toward = weight_gradient(grad, batch.x)
        along = (toward * unit).sum(2, keepdim=True)
        return {
            "weight": toward.addcmul_(unit, along, value=-1).mul_(norm[:, :, None] / length),
            "bias": total,
            "norm": along.squeeze(2) * _slope(parameters["norm"]),
            "lift": total * _slope(parameters["lift"]),
        }

    def settle(self, parameters: Parameters, context: Context) -> None:
        from sklearn.isotonic import isotonic_regression  # slow to import

        order = np.argsort(context.facts.prior_counts(context.counts), kind="stable")
        for name in ORDERED:
            r = parameters[name].cpu().numpy().copy()
            for row in r:
                if np.isfinite(row).all():  # else it has diverged
                    row[order] = isotonic_regression(row[order])
            parameters[name].copy_(torch.from_numpy(r))

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return _positive(parameters["norm"])

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        weight, bias = _affine({name: value[None] for name, value in parameters.items()})
        return affine(weight[0], bias[0])


def _affine(parameters: Parameters) -> tuple[Tensor, Tensor]:
    """W [C, K, D] and b [C, K] of the same logits."""
    unit = torch.nn.functional.normalize(parameters["weight"], dim=2)
    weight = unit * _positive(parameters["norm"])[:, :, None]
    return weight, parameters["bias"] + _positive(parameters["lift"])


def _positive(r: Tensor) -> Tensor:
    """exp(1/softplus(r))."""
    return torch.nn.functional.softplus(r).reciprocal_().exp_()


def _slope(r: Tensor) -> Tensor:
    """Its derivative, −exp(1/softplus(r))·sigmoid(r)/softplus(r)²."""
    soft = torch.nn.functional.softplus(r)
    return soft.reciprocal().exp_().mul_(r.sigmoid()).div_(soft.square()).neg_()
