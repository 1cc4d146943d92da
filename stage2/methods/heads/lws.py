"""Learnable weight scaling [cRT §4.3]."""

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


class LWS(TrainedHead):
    """z_k = s_k·z⁰_k: one trained scale per class on the stage-1 logits, bias included."""

    description = "one learned scale per class on the stage-1 logits"
    source = "crt"
    settings = (START,)
    convex = True
    reads_z0 = True

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(classes, 2 * classes)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        shape = (len(settings), len(context.counts))
        return {"scale": torch.ones(shape, device=context.device)}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return batch.z0 * parameters["scale"]

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return parameters["scale"].abs() * context.classifier[0].norm(dim=1)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        return {"scale": (grad * batch.z0).sum(0)}

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        (weight, bias), scale = context.classifier, parameters["scale"]
        return affine(scale[:, None] * weight, scale * bias)
