"""The MiSLAS head: learnable weight scaling on a gently fine-tuned classifier [MiSLAS eq. 4]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.heads.algebra import column, project, weight_gradient
from stage2.methods.heads.interface import (
    MAX_NORM,
    START,
    Batch,
    Context,
    Parameters,
    Settings,
    TrainedHead,
)
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.heads.starts import stage1_linear
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class MiSLAS(TrainedHead):
    """z = s ⊙ (Wx + b) with W = r·W₀ + ΔW, b = r·b₀ + Δb: s at the recipe's lr·scale_lr, W and b at
    lr·delta_lr.

    As released, W itself is fine-tuned, the bias is scaled too, and weight decay acts on all three.
    With ``decay=delta`` it acts on ΔW and Δb, as if these were the trained parameters.

    The retention r spans the methods it unites: r = 1 with ``delta_lr=0`` is LWS, r = 0 with
    ``scale_lr=0`` is cRT, from W = 0.
    """

    description = "per-class scale on a classifier fine-tuned at lr·delta_lr"
    source = "mislas"
    settings = (
        Setting("retention", 1.0, "share r of W₀ and b₀ that W and b start from", low=0, high=1),
        Setting("delta_lr", 0.2, "learning-rate multiplier of W and b; 0 freezes them", low=0),
        Setting("scale_lr", 1.0, "learning-rate multiplier of s; 0 freezes it at 1", low=0),
        Setting(
            "decay",
            "weight",
            "apply weight decay to W and b as released, or to ΔW and Δb",
            choices=("weight", "delta"),
        ),
        START,
        *MAX_NORM,
    )
    shared = ("decay",)
    biases = ("bias",)

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def problem(self, settings: Settings, dim: int) -> str | None:
        if settings["delta_lr"] == 0 and settings["scale_lr"] == 0:
            return (
                "Head 'mislas' has nothing to train with delta_lr=0 and scale_lr=0. "
                "Give one of the two above 0."
            )
        if settings["delta_lr"] == 0 and settings["retention"] == 0:
            return (
                "Head 'mislas' has W = 0 for good with retention=0 and delta_lr=0. "
                "Give one of the two above 0."
            )
        return super().problem(settings, dim)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        parameters = _retained(settings, context)
        return {**parameters, "scale": torch.ones_like(parameters["bias"])}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(batch.x, parameters["weight"], parameters["bias"]).mul_(parameters["scale"])

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return parameters["scale"].abs() * parameters["weight"].norm(dim=2)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # With M = Gᵀx [C, K, D] and g = Σ_b G [C, K], the three gradients do not need the logits:
        # ∂L/∂s_k = ⟨M_k, w_k⟩ + g_k b_k,  ∂L/∂w_k = s_k M_k,  ∂L/∂b_k = s_k g_k.
        scale = parameters["scale"]
        product, total = weight_gradient(grad, batch.x), grad.sum(0)
        along = (product * parameters["weight"]).sum(2)
        return {
            "scale": along.addcmul_(total, parameters["bias"]),
            "weight": product.mul_(scale[:, :, None]),
            "bias": total.mul_(scale),
        }

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        delta = [s["delta_lr"] for s in settings]
        scale = [s["scale_lr"] for s in settings]
        return {"weight": delta, "bias": delta, "scale": scale}

    def anchors(self, settings: Sequence[Settings], context: Context) -> Parameters:
        if settings[0]["decay"] != "delta":
            return {}
        same = len({s["retention"] for s in settings}) == 1
        return _retained(settings[:1] if same else settings, context)

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        scale = parameters["scale"]
        return affine(scale[:, None] * parameters["weight"], scale * parameters["bias"])


def _retained(settings: Sequence[Settings], context: Context) -> Parameters:
    """r·W₀ [C, K, D] and r·b₀ [C, K]."""
    stage1 = stage1_linear(len(settings), context)
    share = column([s["retention"] for s in settings], stage1["weight"])
    return {
        "weight": stage1["weight"].mul_(share[:, None, None]),
        "bias": stage1["bias"].mul_(share[:, None]),
    }
