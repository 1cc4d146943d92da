"""The cosine classifier [LDAM §3, DisAlign §4.1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from featbank.settings import Setting
from stage2.methods.heads.algebra import column, project, target_logits, weight_gradient
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


class Cosine(TrainedHead):
    """z_k = s·⟨w_k/‖w_k‖, x/‖x‖⟩, no bias.

    A fresh W has unit rows, as in the LDAM release: their norm does not change the logits, but it
    does change the effective step size.
    """

    description = "scaled cosine between feature and class weight"
    source = "ldam"
    settings: ClassVar[tuple[Setting, ...]] = (
        replace(INIT, help="fresh unit rows, the stage-1 W₀, or text"),
        Setting("scale", 16.0, "s, usually 16 to 30", above=0),
        Setting("learn_scale", False, "train s as well"),
        *MAX_NORM,
    )

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(2 * classes * dim, 2 * classes)  # W and its normalised rows

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        weight = linear_start(settings, context)["weight"]
        fresh = torch.tensor([s["init"] == "fresh" for s in settings], device=weight.device)
        weight = torch.where(
            fresh[:, None, None], torch.nn.functional.normalize(weight, dim=2), weight
        )
        return {"weight": weight, "scale": column([s["scale"] for s in settings], weight)[:, None]}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        scaled = (
            torch.nn.functional.normalize(parameters["weight"], dim=2)
            * parameters["scale"][:, :, None]
        )
        return project(batch.unit, scaled)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # With ŵ = w/‖w‖ and M = ∂L/∂(sŵ) = Gᵀx̂:  ∂L/∂s = Σ_k ⟨M_k, ŵ_k⟩,
        # ∂L/∂w_k = s/‖w_k‖ · (M_k − ⟨M_k, ŵ_k⟩ ŵ_k), the component of M_k orthogonal to w_k.
        weight, scale = parameters["weight"], parameters["scale"][:, :, None]
        length = weight.norm(dim=2, keepdim=True).clamp_min(1e-12)
        unit = weight / length
        toward = weight_gradient(grad, batch.unit)
        along = (toward * unit).sum(2, keepdim=True)
        return {
            "weight": toward.addcmul_(unit, along, value=-1).mul_(scale / length),
            "scale": along.sum(1),
        }

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        return target_logits(z, y).div_(parameters["scale"].view(-1)).nan_to_num_(0).clamp_(-1, 1)

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        return {"scale": [float(s["learn_scale"]) for s in settings]}

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        return affine(
            parameters["scale"] * torch.nn.functional.normalize(parameters["weight"], dim=1),
            parts=1,
        )
