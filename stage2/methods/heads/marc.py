"""Calibration of the stage-1 margins [MARC]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stage2.methods.heads.interface import (
    START,
    Batch,
    Context,
    Parameters,
    Settings,
    Size,
    TrainedHead,
)
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class MARC(TrainedHead):
    """z_k = ω_k·z⁰_k + β_k·‖w_k‖: the margin z⁰_k/‖w_k‖ to the hyperplane of class k becomes
    ω_k·z⁰_k/‖w_k‖ + β_k. ω starts at 1 and β at 0, W₀ and b₀ stay.

    The paper trains ω and β under a re-weighted loss; that is the preset of this name.
    """

    description = "per-class scale and shift of the stage-1 margins"
    source = "marc"
    settings = (START,)
    convex = True
    reads_z0 = True
    biases = ("beta",)

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(2 * classes, 2 * classes)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        shape = (len(settings), len(context.counts))
        return {
            "omega": torch.ones(shape, device=context.device),
            "beta": torch.zeros(shape, device=context.device),
        }

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        shift = parameters["beta"] * _lengths(batch.context)
        return torch.addcmul(shift, batch.z0, parameters["omega"])

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return parameters["omega"].abs() * _lengths(context)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        return {
            "omega": (grad * batch.z0).sum(0),
            "beta": grad.sum(0).mul_(_lengths(batch.context)),
        }

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        (weight, bias), omega = context.classifier, parameters["omega"]
        shift = parameters["beta"] * _lengths(context)
        return affine(omega[:, None] * weight, omega * bias + shift)


def _lengths(context: Context) -> Tensor:
    """‖w_k‖ [K]."""
    return context.classifier[0].norm(dim=1)
